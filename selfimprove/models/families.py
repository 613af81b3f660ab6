"""List the families of models that can be trained."""

from selfimprove.models import flux, sd, sd3, sdxl
from selfimprove.models.family import Family

FAMILIES: dict[str, Family] = {module.FAMILY.pipeline: module.FAMILY for module in (sd, sdxl, sd3, flux)}
