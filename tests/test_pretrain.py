"""What pretraining builds on: a rate that is held and runs that go on."""

from pathlib import Path

import torch
from torch import nn

from selfimprove_lab.pretrain.fit import Hold, Workshop, fit


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    factors = [Hold(warm_up=10, decay=0.5).factor(step, 100) for step in range(101)]
    assert factors[:2] == [0.1, 0.2]
    assert set(factors[9:50]) == {1.0}
    assert factors[100] == 0
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_a_killed_run_goes_on_with_the_same_result(tmp_path: Path) -> None:
    def trained(folder: Path, stops: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for steps in stops:
            torch.manual_seed(0)
            line = nn.Linear(2, 1)

            def loss(draws: torch.Generator, line: nn.Linear = line, last: int = steps) -> torch.Tensor:
                loss.calls += 1
                if last < 20 and loss.calls > last:
                    raise KeyboardInterrupt
                x = torch.randn(8, 2, generator=draws)
                return (line(x).float() - x.sum(1, keepdim=True)).square().mean()

            loss.calls = 0
            try:
                fit(Workshop(folder, torch.device("cpu"), 0), "line", line, loss, 20, 0.1, save_every=5, hold=Hold(warm_up=2))
            except KeyboardInterrupt:
                continue
        return line.state_dict()

    whole, parts = trained(tmp_path / "a", (20,)), trained(tmp_path / "b", (7, 20))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
