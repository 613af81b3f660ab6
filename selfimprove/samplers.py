"""The samplers, one registry: to add one, add an entry."""

from typing import Any, NamedTuple

import diffusers


class Sampler(NamedTuple):
    """A sampler by the name that people read, and the diffusers scheduler that takes its steps ("": the transitions of `schedule`)."""

    label: str
    scheduler: str = ""

    def solver(self, config: dict[str, Any]) -> Any:
        """Return the scheduler with a model's own noise schedule.

        Its steps are "trailing", from the last one on: with the "leading" steps of Stable Diffusion's folders noise would be put in where
        an image already is.
        """
        return getattr(diffusers, self.scheduler).from_config(config, timestep_spacing="trailing")


SAMPLERS = {
    "ddim": Sampler("DDIM"),  # the papers'; with eta > 0 towards DDPM
    "dpm++": Sampler("DPM-Solver++", "DPMSolverMultistepScheduler"),  # (2M), Lu et al. 2022
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),  # Zhao et al. 2023
}
