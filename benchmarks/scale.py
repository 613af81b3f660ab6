"""python -m benchmarks.scale: simulate FLOPs and training memory of the rows about Stable Diffusion; a minute or two, no weights.

The command writes book/results/scale.json.
"""

from pathlib import Path

from tqdm.auto import tqdm

from selfimprove.files import write_json
from selfimprove.run_folder import provenance
from selfimprove_lab.results.scale import SCALED, simulate

if __name__ == "__main__":
    presets = {name: simulate(name) for name in tqdm(SCALED)}
    write_json(Path("book/results/scale.json"), {"presets": presets, "provenance": provenance()})
