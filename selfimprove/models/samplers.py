"""Register the samplers: to add a sampler, add an entry to `SAMPLERS`."""

from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """A sampler: its name for readers, and the diffusers scheduler that takes its steps ("" means the transitions of `schedule`)."""

    label: str
    scheduler: str = ""

    def solver(self, config: dict[str, Any]) -> Any:
        """Return the diffusers scheduler on a model's own path (`Schedule.solver_config`)."""
        import diffusers  # with a model: diffusers takes longer to load than torch, and mathematics needs none of it

        return getattr(diffusers, self.scheduler).from_config(config)


SAMPLERS = {
    "ddim": Sampler("DDIM"),  # the papers' sampler; eta > 0 moves it towards DDPM
    "dpm++": Sampler("DPM-Solver++", "DPMSolverMultistepScheduler"),  # 2M, Lu et al. 2022
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler"),  # Zhao et al. 2023
}
