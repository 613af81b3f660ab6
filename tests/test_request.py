import re
from dataclasses import asdict

import pytest

from selfimprove.errors import ArgumentError
from selfimprove.presets import PRESETS
from selfimprove.request import CompareRequest, Request, RsiRequest, changed_settings, from_namespace


@pytest.mark.parametrize("value", [0, -1, "two", 1.5, True])
def test_rounds_are_whole_numbers_from_one_on(value: object) -> None:
    with pytest.raises(ValueError, match="cannot be the round to play; give a whole number from 1 on"):
        Request(iter=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("preset", 3), ("device", "tpu"), ("preset", "nosuch")])
def test_other_values_are_checked(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        Request(**{"iter": 1, name: value})  # type: ignore[arg-type]


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown parameter iterr; this notebook takes data, device, iter"):
        from_namespace({"iter": 1, "iterr": 2, "_i": "", "In": [], "open": open}, Request)


def test_a_namespace_becomes_a_request() -> None:
    assert from_namespace({"iter": 3, "seed": 4, "In": [], "__name__": "x"}, Request) == Request(iter=3, seed=4)


def test_each_system_has_its_own_parameters_and_presets() -> None:
    with pytest.raises(ValueError, match="unknown parameter prompts"):
        from_namespace({"iter": 1, "prompts": "shapes"}, Request)
    assert from_namespace({"iter": 1, "prompts": "mine.txt"}, RsiRequest) == RsiRequest(iter=1, prompts="mine.txt")
    with pytest.raises(ValueError, match="prompts=7 must be text; .* to papermill one that looks like a number with -r: -r prompts VALUE"):
        RsiRequest(iter=1, prompts=7)
    with pytest.raises(
        ValueError,
        match=r"preset='shapes-spin' is of the other system; choose one of \['shapes-rsi', 'smoke-rsi', 'sd14-rsi', 'own-prompts', 'sd3-rsi'\]",  # noqa: E501
    ):
        RsiRequest(iter=1, preset="shapes-spin")
    with pytest.raises(ValueError, match="preset='shapes-rsi' is of the other system; choose one of .*shapes-spin"):
        Request(iter=1, preset="shapes-rsi")


def test_scorers_replace_the_presets() -> None:
    preset = Request(iter=1, preset="sd15-spin").chosen_preset()
    assert preset.scorers == PRESETS["sd15-spin"].scorers
    assert Request(iter=1, preset="sd15-spin", scorers="none").chosen_preset().scorers == ()
    asked = Request(iter=1, preset="sd15-spin", scorers="pickscore, aesthetic=head.pth").chosen_preset()
    assert asked.scorers == ("pickscore", "aesthetic=head.pth")
    assert asked.identity() == preset.identity()  # who judges changes no round


def test_a_comparison_is_checked() -> None:
    assert from_namespace({"count": 3, "guidance": 5, "torch": pytest}, CompareRequest) == CompareRequest(count=3, guidance=5)
    with pytest.raises(ValueError, match="unknown parameter counts"):
        from_namespace({"counts": 3}, CompareRequest)
    for name, value in (("count", -1), ("images", 0), ("steps", 2.5), ("model_b", None)):
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            CompareRequest(**{name: value})  # type: ignore[arg-type]


def test_changed_settings() -> None:
    given = "samples=50_000, sampler=unipc,lora_rank=None,  flip = true, metrics=(('clip', 1.0), ('hpsv2', 2.0)), warmup=1e2,"
    assert changed_settings(given) == {
        "samples": 50_000, "sampler": "unipc", "lora_rank": None, "flip": True, "metrics": (("clip", 1.0), ("hpsv2", 2.0)), "warmup": 100,
    }  # fmt: skip
    assert changed_settings("") == changed_settings(" , ".replace(",", "")) == {}
    assert changed_settings("weighting=none, judge=7, precision='no'") == {"weighting": "none", "judge": "7", "precision": "no"}
    assert changed_settings("judge=org/model, a copy, lr=1e-5") == {"judge": "org/model, a copy", "lr": 1e-5}
    assert changed_settings("judge='model, lr=3', lr=1e-5") == {"judge": "model, lr=3", "lr": 1e-5}
    assert isinstance(changed_settings("steps=1e3")["steps"], int)
    settings = {name: repr(value) for name, value in asdict(PRESETS["shapes-rsi"].settings).items()}
    assert changed_settings(", ".join(f"{n}={v}" for n, v in settings.items())) == asdict(PRESETS["shapes-rsi"].settings)


def test_a_setting_of_one_round() -> None:
    assert changed_settings("round 2 steps=8e2, lr=1e-3, round  3 lr=1e-4") == {"round 2 steps": 800, "lr": 1e-3, "round 3 lr": 1e-4}
    for text in ("round 2 speed=1", "round 0 steps=1", "round two steps=1", "round 2=1"):
        with pytest.raises(ArgumentError, match="set='"):
            changed_settings(text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sample=5", "set='sample=5' names no setting; do you mean samples"),
        ("lr=1e-5, betta=5000", "set='betta=5000' names no setting; do you mean beta"),
        ("learning_rate=1", "set='learning_rate=1' names no setting; do you mean lr?"),
        ("batch_size=8", "set='batch_size=8' names no setting; do you mean batch, micro_batch?"),
        ("zzz=8", "set='zzz=8' names no setting; do you mean one of samples, "),
        ("samples", "set='samples' changes nothing; give name=value, name=value, such as lr=1e-5, beta=5000"),
        ("lr: 1e-5", "set='lr: 1e-5' changes nothing"),
        ("lr=1e-5, lr=1e-6", "gives lr twice; give one value"),
        ("samples=many", "samples='many' is of the wrong kind; give a whole number"),
        ("steps=10.5", "steps=10.5 is of the wrong kind; give a whole number"),
        ("lr=1,5", "lr=(1, 5) is of the wrong kind; give a finite number"),
        ("lr=1e-5; beta=5", "lr='1e-5; beta=5' is of the wrong kind"),
        ("lr=1e-5, beta", "lr='1e-5, beta' is of the wrong kind"),
        ("lr=", "lr='' is of the wrong kind"),
        ("lr=-1.0", "lr=-1.0 must be greater than 0"),
        ("flip=1", "flip=1 is of the wrong kind; give True or False"),
        ("sampler=euler", "sampler='euler' is not known; choose one of ['ddim', 'dpm++', 'unipc']"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(given: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(said)):
        Request(iter=1, set=given)


def test_a_request_with_settings() -> None:
    chosen = Request(iter=1, set="lr=1e-5, beta=5e3").chosen_preset()
    assert [(s.lr, s.beta) for s in chosen.all_rounds()] == [(1e-5, 5000)] * 3
    with pytest.raises(ArgumentError, match=r"set=5 must be text; give name=value, name=value"):
        Request(iter=1, set=5)
    assert from_namespace({"iter": 1, "set": "lr=1e-5", "device": "cpu"}, Request) == Request(iter=1, set="lr=1e-5", device="cpu")


def test_the_preset_that_was_chosen_is_said() -> None:
    assert (Request(iter=1).name, Request(iter=1).said) == ("shapes-spin", [])
    own = Request(iter=1, model="sd", data="photos")
    assert (own.name, own.said) == ("own-images", ["preset own-images: none was named, and what is given is your own"])
    assert RsiRequest(iter=1, prompts="mine.txt").name == "own-prompts"
    assert RsiRequest(iter=1, data="photos").name == "shapes-rsi"  # real images beside the shapes world's prompts
    assert Request(iter=1, preset="sd15-spin-lora", model="sd").said == []
    with pytest.raises(ArgumentError, match="preset='shapes-spin' has the numbers of the embedded model"):
        Request(iter=1, preset="shapes-spin", model="sd", data="photos")
