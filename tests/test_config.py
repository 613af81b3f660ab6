import dataclasses
import re
from dataclasses import fields

import pytest

from selfimprove.config import COLUMNS, FREE, JUDGING, LATER, Settings
from selfimprove.errors import ArgumentError
from selfimprove.presets import PRESETS, choose_preset, get_preset
from selfimprove.request import changed_settings
from selfimprove.run_folder import identity_hash
from selfimprove.train import learning_rate


@pytest.mark.parametrize(("name", "value"), [("beta", 0.0), ("beta", -1.0), ("lr", 0.0), ("lr", -1e-5), ("steps", 0), ("eta", 2.0)])
def test_bad_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}".replace(".", r"\.")):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["link", "sampler", "error_in", "prediction_type", "evaluation_part"])
def test_unknown_choices_are_named(name: str) -> None:
    settings = Settings()
    object.__setattr__(settings, name, "cubic")  # past the type checker that tests run under
    with pytest.raises(ValueError, match=f"{name}='cubic' is not known; choose one of"):
        settings.__post_init__()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("steps", 1000.0, "a whole number"),
        ("weight_beta", "abc", "float | None"),
        ("flip", 1, "True or False"),
        ("lora_rank", 8.0, "int | None"),
    ],
)
def test_values_of_the_wrong_kind_are_named(name: str, value: object, wanted: str) -> None:
    settings = Settings()
    object.__setattr__(settings, name, value)
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} is of the wrong kind; give {wanted}")):
        settings.__post_init__()


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="preset='nosuch' is not known; choose one of"):
        get_preset("nosuch")


@pytest.mark.parametrize("alpha", [0, -8])
def test_an_adapter_that_is_scaled_away_is_refused(alpha: int) -> None:
    with pytest.raises(ValueError, match=f"lora_alpha={alpha} must be at least 1"):
        Settings(lora_rank=4, lora_alpha=alpha)
    assert Settings(lora_alpha=alpha).lora_rank is None  # nothing is scaled


def test_every_preset_gives_valid_settings_for_every_round() -> None:
    for preset in PRESETS.values():
        rounds = [preset.for_round(k) for k in range(1, 6)]
        assert rounds[len(preset.rounds) - 1] == rounds[4]  # the last entry goes on


# SPIN-Diffusion, appendix A: what every round of its three runs on eight cards is made of
SPIN = {"objective": "spin", "opponent": "previous", "generated_source": "rollout", "warmup": 200, "decay": True}
PAPER = {
    "sd15-spin": [
        SPIN | {"lr": 2e-5, "beta": 2000, "steps": 50},
        SPIN | {"lr": 2e-5, "beta": 5000, "steps": 500},
        SPIN | {"lr": 5e-8, "beta": 5000, "steps": 200},
    ],
    "sd15-dpo": [SPIN | {"opponent": "base", "generated_source": "loser", "lr": 2e-5, "beta": 2000, "steps": 350}],
    "sd15-sft": [{"objective": "sft", "lr": 1e-5, "steps": 2000, "warmup": 500, "decay": False}],
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_have_the_papers_numbers(name: str) -> None:
    preset = PRESETS[name]
    assert preset.model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert len(preset.rounds) == len(PAPER[name])
    sampling = {"sampler": "ddim", "rollout_steps": 50, "guidance": 7.5, "eta": 0, "evaluation_steps": 50, "evaluation_guidance": 7.5}
    for index, expected in enumerate(PAPER[name], start=1):
        s = preset.for_round(index)
        assert (s.batch, s.micro_batch) == (512 if name == "sd15-sft" else 2048, 8)
        found = {k: getattr(s, k) for k in (*expected, *sampling, "weight_decay", "lora_rank")}
        assert found == expected | sampling | {"weight_decay": 0.01, "lora_rank": None}


@pytest.mark.parametrize("name", ["sd15-spin-lora", "sd15-sft-lora"])
def test_adapters_on_one_card(name: str) -> None:
    s, paper = PRESETS[name].for_round(1), PRESETS[name.removesuffix("-lora")].for_round(1)
    assert (s.lora_rank, s.lora_alpha, s.lr, s.gradient_checkpointing) == (16, 16, 1e-4, True)
    assert (s.beta, s.steps, s.guidance, s.objective) == (paper.beta, paper.steps, paper.guidance, paper.objective)
    assert (s.batch, s.micro_batch) == ({"sd15-spin-lora": 256, "sd15-sft-lora": 512}[name], 4)


def test_changed_overrides_every_round_and_the_identity_sees_it() -> None:
    preset = PRESETS["sd15-spin"]
    changed = preset.changed(steps=7)
    assert [changed.for_round(k).steps for k in (1, 2, 3)] == [7, 7, 7]
    assert changed.for_round(3).lr == 5e-8
    assert changed.identity() != preset.identity()
    assert dataclasses.replace(preset).identity() == preset.identity()
    assert preset.changed(rollout_batch=3, micro_batch=1, gradient_checkpointing=True, checkpoint_every=7).identity() == preset.identity()


def test_one_round_is_changed_alone() -> None:
    preset = PRESETS["shapes-dpo"]
    changed = preset.changed(**{"round 3 steps": 7, "beta": 1.0})
    assert [changed.for_round(k).steps for k in (1, 2, 3, 4)] == [180, 180, 7, 7]
    assert {changed.for_round(k).beta for k in (1, 3)} == {1.0}
    assert PRESETS["sd15-spin"].changed(**{"round 2 steps": 900}).rounds[1] == {"beta": 5000.0, "steps": 900}
    assert changed.changed(steps=9).for_round(3).steps == 9
    with pytest.raises(ValueError, match="steps=0 must be greater than 0"):
        preset.changed(**{"round 2 steps": 0}).all_rounds()


def test_processes_share_a_batch() -> None:
    settings = Settings(batch=48)
    assert [(settings.share(n), settings.per_forward(n)) for n in (1, 2, 16, 48)] == [(48, 48), (24, 24), (3, 3), (1, 1)]
    assert [Settings(batch=48, micro_batch=5).per_forward(n) for n in (1, 2, 16)] == [5, 5, 3]
    with pytest.raises(
        ValueError,
        match="batch=48 cannot be shared equally by 9 processes; start a number of processes that divides it, such as 8, or give a batch "
        "that is a multiple of 9",
    ):
        settings.share(9)
    with pytest.raises(ValueError, match="micro_batch=-1 must not be negative"):
        Settings(micro_batch=-1)


def test_an_identity_has_what_changes_the_player_and_no_more() -> None:
    preset = PRESETS["shapes-spin"]
    assert preset.changed(evaluation_prompts=9, evaluation_guidance=2.0, on_collapse="stop").identity() == preset.identity()
    assert preset.changed(micro_batch=4, rollout_batch=3, gradient_checkpointing=True).identity() == preset.identity()
    assert preset.changed(sampler="unipc").identity() == preset.identity() | {"sampler": "unipc"}
    free = {*FREE, *JUDGING, *COLUMNS}
    assert set(preset.identity()) == {field.name for field in fields(Settings)} - free - {*LATER}
    for name in LATER:
        assert name not in free
    each = dataclasses.replace(preset, rounds=({"evaluation_steps": 3, "lr": 1e-6},))
    assert each.identity() == preset.identity() | {"round 1 lr": 1e-6}


def test_learning_rate_warms_up_then_decays() -> None:
    settings = Settings(lr=1.0, warmup=2, steps=6)
    assert [learning_rate(settings, s, 6) for s in range(6)] == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])
    long = Settings(lr=1.0, warmup=200, steps=50)  # the paper's round 1 never leaves its warm-up
    assert learning_rate(long, 49, 50) == pytest.approx(0.25)


# hashes of the identities before the settings in LATER were there: of a preset alone, without model and data
BEFORE = {
    "shapes-spin": "9012845a",
    "shapes-rsi": "1d457676",
    "sd15-spin": "d2e2eea0",
    "sd15-spin-lora": "b6b2c215",
    "own-prompts": "cf61cebc",
}


@pytest.mark.parametrize("name", BEFORE)
def test_settings_that_came_later_leave_old_runs_their_identity(name: str) -> None:
    assert identity_hash(PRESETS[name].identity()) == BEFORE[name]
    other = PRESETS[name].changed(resolution=640)
    assert other.identity() == PRESETS[name].identity() | {"resolution": 640}


def test_the_preset_is_chosen_by_what_is_given() -> None:
    assert choose_preset("", "", "") == choose_preset("", "shapes", "shapes") == "shapes-spin"
    assert choose_preset("", "", "", recursive=True) == "shapes-rsi"
    assert choose_preset("", "shapes-flow", "") == "shapes-flow-spin"
    assert choose_preset("", "shapes-flow", "", recursive=True) == "shapes-flow-rsi"
    assert choose_preset("", "shapes-flow", "photos") == "own-images"
    for given in (("sd", "photos"), ("sd", ""), ("", "photos"), ("shapes", "photos")):
        assert choose_preset("", *given) == "own-images"
        assert choose_preset("", *given, recursive=True) == "own-prompts"
    assert choose_preset("smoke", "sd", "photos") == "smoke"
    assert choose_preset("shapes-spin", "", "photos") == choose_preset("shapes-spin", "sd", "") == "shapes-spin"  # of one kind at least
    for name in ("shapes-spin", "shapes-dpo"):
        with pytest.raises(ValueError, match=f"preset='{name}' has the numbers of the embedded model, and model='sd' is none of its kind"):
            choose_preset(name, "sd", "photos")


@pytest.mark.parametrize("name", ["own-images", "own-images-full"])
def test_own_images_are_passed_over_and_judged_on_what_is_kept_out(name: str) -> None:
    """Every image is seen as often in a set of 30 as in one of 5,000, and the steps of a round stay below a few thousand."""
    settings = get_preset(name).settings
    for images in (27, 300, 4872):
        seen = settings.steps_for(images) * settings.batch / images
        assert seen == pytest.approx(settings.epochs, rel=0.05)
        assert 10 < settings.steps_for(images) < 7000
    assert settings.validation
    assert settings.evaluation_part == "test"
    assert get_preset(name).scorers == ()  # nothing needs a network but the base model, if none is given
    assert (settings.lora_rank is None) == (name == "own-images-full")


WHOLE_RUN = {
    "resolution": 768, "negative_prompt": "blurred", "validation": 3, "flip": True, "precision": "bf16", "evaluation_steps": 3,
    "objective": "sft", "caption_column": "said", "samples": 7,
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_RUN)
def test_one_round_has_nothing_of_its_own_that_the_run_shares(name: str) -> None:
    """It would be left out silently, and yet make another run folder."""
    preset = get_preset("own-images")
    with pytest.raises(ArgumentError, match=f"'round 2 {name}' cannot be set: {name} holds for the whole run; give it without the round"):
        preset.changed(**{f"round 2 {name}": WHOLE_RUN[name]})
    assert getattr(preset.changed(**{name: WHOLE_RUN[name]}).for_round(2), name) == WHOLE_RUN[name]
    assert get_preset("sd14-rsi").changed(**{"round 2 samples": 700}).for_round(2).samples == 700  # each round draws its own there


@pytest.mark.parametrize("text", ["512x768", "(512, 768)", "512, 768", "[512, 768]", "512.5", "wide"])
def test_images_have_one_side(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"resolution=.* is of the wrong kind; give one whole number, the pixels of a side"):
        changed_settings(f"resolution={text}")
    assert changed_settings("resolution=512.0") == {"resolution": 512}


def test_steps_that_are_given_replace_passes() -> None:
    preset = get_preset("own-images")
    assert preset.changed(steps=2).settings.steps_for(300) == 2
    assert preset.changed(steps=2, epochs=1).settings.steps_for(300) == 38
    one = preset.changed(**{"round 2 steps": 2})
    assert [one.for_round(k).steps_for(300) for k in (1, 2, 3)] == [375, 2, 2]
    assert preset.changed(lr=1e-6).settings.epochs == preset.settings.epochs


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_settings_are_finite(value: float) -> None:
    for name in ("lr", "threshold", "guidance", "weight_beta"):
        with pytest.raises(ValueError, match=f"{name}={value} is of the wrong kind"):
            Settings(**{name: value})
