import pytest

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
        match=r"preset='shapes-spin' is of the other system; choose one of \['shapes-rsi', 'smoke-rsi', 'sd14-rsi', 'own-prompts'\]",
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
    changes = changed_settings(["samples=50_000", "sampler=unipc", "lora_rank=None", "flip=True", "metrics=(('clip', 1.0),)"])
    assert changes == {"samples": 50_000, "sampler": "unipc", "lora_rank": None, "flip": True, "metrics": (("clip", 1.0),)}
    for wrong in ("sample=5", "samples"):
        with pytest.raises(ValueError, match=f"set='{wrong}' changes nothing; give name=value with one of samples, validation"):
            changed_settings([wrong])
    assert changed_settings(["steps=1e3"]) == {"steps": 1000}
    for old in ("batch_size=8", "accumulation=4"):
        with pytest.raises(ValueError, match=f"set='{old}' names a setting of earlier versions; give batch=N for .*, and micro_batch=N"):
            changed_settings([old])
    assert isinstance(changed_settings(["steps=1e3"])["steps"], int)
    with pytest.raises(ValueError, match="samples='many' must be a number"):
        changed_settings(["samples=many"])


def test_a_setting_of_one_round() -> None:
    assert changed_settings(["round 2 steps=8e2", "lr=1e-3"]) == {"round 2 steps": 800, "lr": 1e-3}
    for text in ("round 2 speed=1", "round 0 steps=1", "round two steps=1", "round 2=1"):
        with pytest.raises(ValueError, match=f"set='{text}' changes nothing; give name=value with one of"):
            changed_settings([text])
