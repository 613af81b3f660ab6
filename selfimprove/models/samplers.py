"""Register the samplers: to add a sampler, add an entry to `SAMPLERS`."""

from typing import Any, NamedTuple

import diffusers


class Sampler(NamedTuple):
    """A sampler: its name for readers, and the diffusers scheduler that takes its steps ("" means the transitions of `schedule`)."""

    label: str
    scheduler: str = ""

    def solver(self, config: dict[str, Any]) -> Any:
        """Return the diffusers scheduler with a model's own noise schedule, and nothing else of its configuration.

        Its time steps are "trailing": the first one is the last step of the schedule. Stable Diffusion's folders ask for "leading" steps,
        which start below that step, where x_t must already hold some image; the solver would start there from pure noise.
        """
        own = {name: config[name] for name in SCHEDULE if name in config}
        return getattr(diffusers, self.scheduler).from_config(own, timestep_spacing="trailing")


SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "rescale_betas_zero_snr")
SAMPLERS = {
    "ddim": Sampler("DDIM"),  # the papers' sampler; eta > 0 moves it towards DDPM
    "dpm++": Sampler("DPM-Solver++", "DPMSolverMultistepScheduler"),  # 2M, Lu et al. 2022
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),  # Zhao et al. 2023
}
