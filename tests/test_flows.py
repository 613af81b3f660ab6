"""The opponent's own noise, training times and pairs of arms on flows; what the page claims is tested in test_theory."""

import pandas as pd
import pytest
import torch

from selfimprove_lab.theory import flows, own_noise, self_play, worlds
from selfimprove_lab.theory.paths import Trajectory


@pytest.fixture(scope="module")
def drawn() -> tuple[worlds.PointWorld, torch.nn.Module, Trajectory, torch.Tensor]:
    flow = worlds.flow_world()
    model = self_play.family(flow, 2, 0)
    return flow, model, own_noise.opponents_path(flow, model, 12, 8), worlds.texts(flow, 12)


def test_own_noise_is_that_of_the_image(drawn: tuple) -> None:
    """Each generated point lies on its chord, and its target is e' - x'_0; with fresh noise neither holds. The real side is the same."""
    flow, model, path, text = drawn
    chosen = torch.tensor([7, 3, 3, 0])
    real = torch.zeros(4, 2, 1, 1, dtype=torch.float64)
    own, fresh = (
        own_noise.paired_batch(pairing, flow, model, path, chosen, real, text[chosen], torch.Generator().manual_seed(0))
        for pairing in ("own", "fresh")
    )
    s = (own.t / 1000).double().view(-1, 1, 1, 1)
    noise, image = path.states[0, chosen], path.clean[chosen]
    assert torch.allclose(own.forward, (1 - s) * image + s * noise, atol=1e-12)
    assert torch.allclose(own.forward_target, noise - image, atol=1e-12)
    assert not torch.allclose(fresh.forward_target, noise - image, atol=0.1)
    assert torch.equal(own.noisy, fresh.noisy)
    assert torch.equal(own.target, fresh.target)


def test_on_the_path_the_target_is_the_opponents_own(drawn: tuple) -> None:
    flow, model, path, text = drawn
    chosen = torch.arange(12)
    real = torch.zeros(12, 2, 1, 1, dtype=torch.float64)
    batch = own_noise.paired_batch("path", flow, model, path, chosen, real, text, torch.Generator().manual_seed(0))
    times = torch.tensor([step.t for step in path.steps], dtype=torch.float64)
    for row in range(12):
        index = int((times - batch.t[row]).abs().argmin())
        assert torch.equal(batch.forward[row], path.states[index, row])
    assert float(batch.errors(model)[1].detach().max()) < 1e-20


@pytest.mark.parametrize("steps", [7, 50, 100])
def test_training_times_of_a_diffusion_are_its_own(steps: int) -> None:
    """Bit for bit, what was drawn before flows: one whole number per row."""
    drawn = worlds.times(worlds.point_world(steps).schedule, 500, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.randint(steps, (500,), generator=torch.Generator().manual_seed(0)))


def test_pairs_of_arms_by_hand() -> None:
    rows = [
        {"arm": arm, "seed": seed, "round": 1, "terms": torch.tensor(terms, dtype=torch.float64).numpy()}
        for arm, terms_of in (("a", ([1.0, 2.0], [4.0, 4.0])), ("b", ([3.0, 4.0], [3.0, 3.0])))
        for seed, terms in enumerate(terms_of)
    ]
    found = flows.paired(pd.DataFrame(rows), "a", "b").loc[1]  # nearer by 2, 2, -1, -1
    assert found["nearer by"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(1.5 / 2)
    assert found["seeds ahead"] == 1
