"""The round notebook through papermill: its contract, its errors, and other people's images."""

import json
from pathlib import Path

import nbformat
import papermill
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from selfimprove.presets import PRESETS
from tests import forks  # kernels are forks  # noqa: F401
from tests.tiny_families import write

# isort: split
import build  # type: ignore[import-not-found]
from papermill.cli import papermill as command

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SPIN, RSI = (ROOT / "notebooks" / f"{system}_round.ipynb" for system in ("spin", "rsi"))
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def execute(output: Path, notebook: Path = SPIN, **parameters: object) -> nbformat.NotebookNode:
    papermill.execute_notebook(notebook, output, parameters, cwd=ROOT, progress_bar=False, start_timeout=600)
    return nbformat.read(output, as_version=4)


def printed(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(o.get("text", "") for c in notebook.cells if c.cell_type == "code" for o in c.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_templates(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert cell.source.count("\n") < 40
            assert "def " not in cell.source
    parameters = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(parameters) == 1
    inferred = papermill.inspect_notebook(path)
    assert len(inferred) == len(parameters[0].source.splitlines()) <= 8
    assert all(p["help"] and p["inferred_type_name"] != "None" for p in inferred.values())


@pytest.fixture
def page() -> build.Page:
    """The small book's page of two rounds, which the book's build then finds in its cache."""
    ((made,),) = build.prepared({"spin_round": (build.pages("smoke")["spin_round"], build.SMALL)})
    for folder in (build.EXECUTED, build.CACHE):
        folder.mkdir(exist_ok=True)
    build.execute(made, again=not (ROOT / made.player).exists())
    return made


def test_the_embedded_world_and_what_is_written(page: build.Page) -> None:
    notebook, run_folder = nbformat.read(page.copy, as_version=4), ROOT / page.run
    assert page.parameters == {"iter": 2, "preset": "smoke"}
    text = printed(notebook)
    for said in ("in all about", "round 1:", "margin", "Implicit accuracy", "ceiling", "skipped: 0", "truncated: 0"):
        assert said in text
    assert str(page.run / "summary.png") in text
    pictures = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    run = json.loads((run_folder / "run.json").read_text())
    assert run["identity"]["beta"] == PRESETS["smoke"].settings.beta
    metrics = json.loads((run_folder / "round_2" / "metrics.json").read_text())
    assert {"mean", "median", "ci95", "delta_prev", "delta_prev_ci95", "win_rate_prev", "win_rate_base"} <= set(metrics["scores"]["clip"])
    assert metrics["oracle"]["ceiling"]
    assert {"loss_first", "loss_last", "implicit_accuracy"} <= set(metrics["train"])


def test_handwritten_digits_nobody_made_for_this(tmp_path: Path) -> None:
    """scikit-learn's digits as an imagefolder, on the embedded model, through the same notebook."""
    folder = tmp_path / "digits"
    folder.mkdir()
    digits = load_digits()
    with (folder / "metadata.jsonl").open("w") as metadata:
        for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            Image.fromarray((image / 16 * 255).astype("uint8")).save(folder / f"{i}.png")
            metadata.write(json.dumps({"file_name": f"{i}.png", "text": f"a handwritten {NAMES[label]}"}) + "\n")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    text = printed(execute(tmp_path / "out.ipynb", iter=1, preset="smoke", data=str(folder), run=str(tmp_path / "run"), device="cpu"))
    assert "skipped: 1\n  3.png" in text
    metrics = json.loads((tmp_path / "run" / "round_1" / "metrics.json").read_text())
    assert "oracle" not in metrics
    assert set(metrics["scores"]) == {"nearest_real", "held_out_error"}  # scorers of another world say nothing here
    assert metrics["scores"]["held_out_error"]["delta_prev"] != 0


def test_a_stable_diffusion_of_another_shape(tiny: Path, images: Path, tmp_path: Path) -> None:
    execute(tmp_path / "out.ipynb", iter=1, preset="smoke", model=str(tiny), data=str(images), run=str(tmp_path / "run"), device="cpu")
    with Image.open(tmp_path / "run" / "round_1" / "images" / "000.png") as image:
        assert image.size == (16, 16)


@pytest.mark.parametrize(
    ("parameters", "last_line"),
    [
        ({"iter": 0}, "ArgumentError: iter=0 cannot be the round to play; give a whole number from 1 on"),
        ({"iter": "two"}, "ArgumentError: iter='two' cannot be the round to play; give a whole number from 1 on"),
        ({"iter": 1.5}, "ArgumentError: iter=1.5 cannot be the round to play; give a whole number from 1 on"),
        (
            {"iterr": 2},
            "ArgumentError: unknown parameter iterr; this notebook takes data, device, iter, model, preset, run, scorers, seed, set",
        ),
        ({"set": "betta=5000"}, "ArgumentError: set='betta=5000' names no setting; do you mean beta"),
        ({"set": "steps=many"}, "ArgumentError: steps='many' is of the wrong kind; give a whole number"),
        ({"preset": "nosuch"}, f"ArgumentError: preset='nosuch' is not known; choose one of {list(PRESETS)}"),
        (
            {"model": "/nowhere", "data": "shapes"},
            "ModelError: model='/nowhere': there is no such file or folder; give 'shapes', a pipeline folder, a .safetensors checkpoint",
        ),
        ({"data": "/nowhere"}, "DataError: data='/nowhere': there is no such file or folder; give 'shapes' or a folder of images"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_errors_end_with_what_to_do(tmp_path: Path, parameters: dict, last_line: str) -> None:
    output = tmp_path / "out.ipynb"
    with pytest.raises(papermill.PapermillExecutionError) as error:
        execute(output, **({"run": str(tmp_path / "run"), "device": "cpu"} | parameters))
    assert last_line in str(error.value).strip().splitlines()[-1]
    errors = [o for c in nbformat.read(output, as_version=4).cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert last_line in f"{errors[0].ename}: {errors[0].evalue}".splitlines()[-1]


def test_recursion_on_other_prompts_and_another_model(tiny: Path, tmp_path: Path) -> None:
    """A file of prompts whose images no scorer here knows: refused with the remedy, before anything is sampled."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "\n".join(f"a small red {thing} on a white background" for thing in ("star", "moon", "ring", "heart", "cross", "circle"))
    )
    parameters = {
        "iter": 1,
        "preset": "smoke-rsi",
        "model": str(tiny),
        "prompts": str(prompts),
        "run": str(tmp_path / "run"),
        "device": "cpu",
    }
    with pytest.raises(papermill.PapermillExecutionError, match=r"metrics=\['shading'\] have no scorer for these images"):
        execute(tmp_path / "out.ipynb", RSI, **parameters)
    assert not list((tmp_path / "run").glob("round_0"))


@pytest.mark.filterwarnings("ignore:the file is not specified with any extension")  # what papermill says of the standard output
def test_the_command_with_one_argument_prints_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(ROOT)
    given = [str(SPIN), "-p", "iter", "1", "-p", "preset", "smoke", "-p", "run", str(tmp_path / "run")]
    command(given, standalone_mode=False)
    cells = json.loads(capsysbinary.readouterr().out)["cells"]
    assert [cell for cell in cells if cell["cell_type"] == "code"][-1]["outputs"]
    assert (tmp_path / "run" / "round_1" / "metrics.json").exists()


def test_both_notebooks_on_another_family(images: Path, tmp_path: Path) -> None:
    """Stable Diffusion 3's kind, from the same notebooks; every other family's rounds are in test_families."""
    model = write("sd3", tmp_path / "model")
    execute(
        tmp_path / "spin.ipynb", iter=1, preset="smoke", model=str(model), data=str(images), run=str(tmp_path / "spin"), device="cpu",
        set="lora_rank=2, error_in=velocity, time_density=logit-normal, time_shift=3",
    )  # fmt: skip
    assert (tmp_path / "spin" / "round_1" / "pipeline" / "transformer" / "config.json").exists()
    assert (tmp_path / "spin" / "round_1" / "lora").is_dir()
    execute(
        tmp_path / "rsi.ipynb", RSI, iter=1, preset="smoke-rsi", model=str(model), run=str(tmp_path / "rsi"), device="cpu",
        set="lora_rank=2, resolution=64, time_weight=inverse-variance",
    )  # fmt: skip
    assert (tmp_path / "rsi" / "round_1" / "pipeline" / "transformer" / "config.json").exists()


def test_settings_are_changed_and_the_preset_is_chosen(tiny: Path, images: Path, tmp_path: Path) -> None:
    """A pipeline and images of one's own, with no preset: own-images, of two steps."""
    few = "steps=2, batch=4, rollout_steps=2, evaluation_steps=2, evaluation_prompts=4, lora_rank=2, precision=no"
    text = printed(execute(tmp_path / "out.ipynb", iter=1, model=str(tiny), data=str(images), run=str(tmp_path / "run"), set=few))
    said = text.index("preset own-images: none was named, and what is given is your own\n")
    assert said < text.index("\nrun folder ")
    assert "2 steps of 4 pairs (lr 5e-05, beta 5000)" in text
    assert (tmp_path / "run" / "round_1" / "lora" / "README.md").exists()
