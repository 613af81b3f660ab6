"""What the page on flows claims, at the smallest setting, and mutations of the code that break it; test_theory runs both."""

from collections.abc import Callable

import pandas as pd
import torch

from selfimprove import losses, schedule
from selfimprove.models.paths import FlowSchedule
from selfimprove_lab.theory import bound, checks, exact, flows, gradient, objective, own_noise, self_play, worlds

Checks = list[checks.Check]
AT = [0.05, 0.25, 0.5, 0.75, 0.95]


def weights_claims() -> Checks:
    tables = flows.same_image(16), flows.euler_moves(), flows.weights(AT), flows.likelihood(600, 32), flows.sft_weights(AT)
    return flows.checks_of_weights(*tables, flows.beta_table())


def objectives_claims() -> Checks:
    flow = worlds.flow_world()
    gaps = bound.gaps(4, totals=(1, 5), distances=(0.02, 0.25), flow=flow)
    forms, decoupled = objective.noise_form(4, flow), objective.decoupled_against_approximate(20, flow=flow)
    return flows.checks_of_objectives(forms, decoupled, gaps, gradient.against_autograd(8, flow=flow))


def own_noise_claims() -> Checks:
    """Those of chords and of pushing: play takes minutes, and is made up here."""
    flow = worlds.flow_world()
    names = [flows.EULER, "SFT, Euler", *(arm.name for arm in self_play.OWN)]
    made_up = pd.DataFrame([
        {"arm": name, "seed": 0, "round": index, "denoiser": 1.0, "terms": torch.zeros(4).numpy()} for name in names for index in range(4)
    ])  # fmt: skip
    model = self_play.family(flow, 2, 0)
    chords = own_noise.chords(own_noise.opponents_path(flow, model, 100, 8), model, worlds.texts(flow, 100))
    return flows.checks_of_play(made_up, chords, own_noise.pushing_left(flow, 2000, 20))[:4]


class Mutant:
    """Original functions, and wrong ones that take their place."""

    scale, slope, prediction = schedule.Schedule.error_scale, FlowSchedule.log_snr_slope, schedule.Schedule.clean_and_noise
    make, target = worlds.Batch.make, schedule.Schedule.target

    @staticmethod
    def eps_and_image_exchanged(self: schedule.Schedule, t: torch.Tensor, error: str) -> torch.Tensor:
        return Mutant.scale(self, t, {"epsilon": "x0", "x0": "epsilon"}.get(error, error))

    @staticmethod
    def half_the_slope(self: schedule.Schedule, t: torch.Tensor) -> torch.Tensor:
        return Mutant.slope(self, t) / 2

    @staticmethod
    def wrong_image(self: schedule.Schedule, noisy: torch.Tensor, output: torch.Tensor, alpha: float, variance: float) -> tuple:
        clean, eps = Mutant.prediction(self, noisy, output, alpha, variance)
        return (noisy - output, eps) if self.prediction_type == "flow_prediction" else (clean, eps)  # b left out

    @staticmethod
    def wrong_noise(self: schedule.Schedule, noisy: torch.Tensor, output: torch.Tensor, alpha: float, variance: float) -> tuple:
        clean, eps = Mutant.prediction(self, noisy, output, alpha, variance)
        return (clean, noisy + output) if self.prediction_type == "flow_prediction" else (clean, eps)  # a left out

    @staticmethod
    def towards_the_image(share: torch.Tensor, shift: float) -> torch.Tensor:
        return share / (shift - (shift - 1) * share)

    @staticmethod
    def fresh_all_the_same(*arguments: object) -> worlds.Batch:
        return Mutant.make(*arguments[:5])

    @staticmethod
    def image_less_noise(self: schedule.Schedule, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -Mutant.target(self, clean, noise, t)

    @staticmethod
    def one_for_all(player_real: torch.Tensor, weight: torch.Tensor, alpha: torch.Tensor, *rest: object) -> losses.WeightedTerms:
        return losses.WeightedTerms(weight * player_real, player_real, weight)

    @staticmethod
    def h_of_eps(world: worlds.PointWorld, step: schedule.Step) -> float:
        return step.h if step.alpha else -1.0


MUTATIONS: list[tuple[str, object, str, object, Callable[[], Checks]]] = [
    ("errors in eps and x_0 exchanged", schedule.Schedule, "error_scale", Mutant.eps_and_image_exchanged, weights_claims),
    ("the likelihood's weight halved", FlowSchedule, "log_snr_slope", Mutant.half_the_slope, weights_claims),
    ("x_0 read off a velocity without b", schedule.Schedule, "clean_and_noise", Mutant.wrong_image, weights_claims),
    ("shift towards the image", schedule, "shifted", Mutant.towards_the_image, weights_claims),
    ("lambda_t forgotten", losses, "weighted_denoising", Mutant.one_for_all, weights_claims),
    ("h_t for an error of the velocity", exact, "output_move", Mutant.h_of_eps, weights_claims),
    ("the same, in (C.5)", exact, "output_move", Mutant.h_of_eps, objectives_claims),
    ("eps read off a velocity without a", schedule.Schedule, "clean_and_noise", Mutant.wrong_noise, objectives_claims),
    ("the velocity's sign", schedule.Schedule, "target", Mutant.image_less_noise, objectives_claims),
    ("own noise not used", worlds.Batch, "make", staticmethod(Mutant.fresh_all_the_same), own_noise_claims),
    ("x_0 off a velocity, in the opponent's steps", schedule.Schedule, "clean_and_noise", Mutant.wrong_image, own_noise_claims),
]
