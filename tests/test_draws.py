import torch
from hypothesis import given
from hypothesis import strategies as st

from selfimprove import draws

IDS = [draws.example_id("a star", i) for i in range(6)]


def test_an_example_is_drawn_alike_alone_and_in_any_company() -> None:
    together = draws.normal(3, "noise", (1, 2), IDS, (4, 2, 2))
    for i, name in enumerate(IDS):
        assert torch.equal(draws.normal(3, "noise", (1, 2), [name], (4, 2, 2))[0], together[i])


@given(st.lists(st.sampled_from(["seed", "stream", "round", "step", "id"]), min_size=1, max_size=5, unique=True))
def test_every_part_of_the_key_matters(changed: list[str]) -> None:
    key = {"seed": 0, "stream": "noise", "round": 1, "step": 2, "id": IDS[0]}
    other = key | {name: (f"{key[name]}x" if isinstance(key[name], str) else key[name] + 1) for name in changed}

    def draw(k: dict) -> torch.Tensor:
        return draws.normal(k["seed"], k["stream"], (k["round"], k["step"]), [k["id"]], (8,))

    assert not torch.equal(draw(key), draw(other))


def test_laws() -> None:
    ids = [str(i) for i in range(20_000)]
    uniform = draws.uniform(0, "u", (0,), ids)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(float(uniform.mean()) - 0.5) < 0.01
    integers = draws.integers(0, "t", (0,), ids, 10)
    assert torch.bincount(integers, minlength=10).float().sub(2000).abs().max() < 200
    normal = draws.normal(0, "n", (0,), ids[:2000], (4,))
    assert abs(float(normal.std()) - 1) < 0.03


def test_parts_do_not_run_together() -> None:
    assert draws.key_hash("a", "bc") != draws.key_hash("ab", "c")
    assert draws.example_id("p", 0) != draws.example_id("p", 1)
