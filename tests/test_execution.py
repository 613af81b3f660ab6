"""How networks are held and run: what a precision, a small memory or a busy device changes, and what it must not."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from test_rounds import PRESET, SETTINGS, prepared_run
from tiny_families import PIPELINES, write
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from selfimprove import rollout, rounds, train
from selfimprove.batches import TrainingSet, make_batch
from selfimprove.config import Precision, Settings
from selfimprove.data import latents
from selfimprove.data.latents import Store, build_store, header_of
from selfimprove.errors import ArgumentError
from selfimprove.evaluation.evaluate import drawn_by
from selfimprove.files import sha256
from selfimprove.models import execution
from selfimprove.models.execution import UNREAD, check_compile, compiled, laid_out, rounded, to_device, vae_precision
from selfimprove.models.pipeline import Diffuser, load_denoiser, load_diffuser
from selfimprove.models.weights import model_hash
from selfimprove.opponent import LiveOpponent
from selfimprove.planning.costs import Shapes, sampling_memory, training_memory
from selfimprove.planning.plan import plan
from selfimprove.planning.work import count
from selfimprove.request import changed_settings
from selfimprove.rollout import guided_at, sample_batches

CPU = torch.device("cpu")
WORDS = ["a star", "a moon", "", "a red cat", "noise number 1"]
DRAW: dict[str, Any] = {"seed": 0, "stream": "rollout", "round_index": 1, "steps": 3, "guidance": 2.0}


@pytest.fixture
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, CPU)


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_fits", {})


def draw(diffuser: Diffuser, denoiser: Any, batch: int = 5, precision: Precision = "no", **changes: Any) -> Tensor:
    return sample_batches(diffuser, denoiser, WORDS, [str(i) for i in range(5)], batch, "sampling", precision, **DRAW | changes)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of norms in bfloat16 on CPUs
@pytest.mark.parametrize("form", PIPELINES)
def test_rounded_weights_draw_the_same_bit_by_bit(form: str, tmp_path: Path) -> None:
    folder = write(form, tmp_path)
    diffuser = load_diffuser(folder, CPU)
    exact, held = load_denoiser(folder), diffuser.load_frozen(folder, "bf16")
    assert torch.equal(draw(diffuser, exact, precision="bf16"), draw(diffuser, held, precision="bf16"))
    sizes = [sum(p.numel() * p.element_size() for p in network.parameters()) for network in (exact, held)]
    assert 0.5 <= sizes[1] / sizes[0] < 0.7
    assert not any(p.requires_grad for p in held.parameters())


def test_only_what_autocast_rounds_and_nobody_trains_is_rounded(tiny: Path) -> None:
    network = load_denoiser(tiny).requires_grad_(False)
    network.conv_in.requires_grad_(True)
    rounded(network, "bf16")
    kinds = {name: p.dtype for name, p in network.named_parameters()}
    assert kinds["conv_in.weight"] == kinds["conv_norm_out.weight"] == torch.float32
    assert kinds["conv_out.weight"] == kinds["time_embedding.linear_1.bias"] == torch.bfloat16
    assert {p.dtype for p in rounded(load_denoiser(tiny), "no").parameters()} == {torch.float32}


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"lora_rank": 2, "use_dora": True}, {"lora_rank": 2, "opponent": "base"}])
def test_a_player_is_the_same_whether_frozen_weights_are_rounded(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    """The adapter is merged into the exact weights, in a second round too, which goes on from it."""
    preset, hashes = PRESET.changed(precision="bf16", **changes), []
    for name in ("rounded", "exact"):
        rounds.play(prepared_run(tiny, images, tmp_path / name, preset), 2 if changes else 1)
        hashes.append([model_hash(path) for path in sorted((tmp_path / name).glob("round_*/pipeline"))])
        monkeypatch.setattr(rounds, "rounded", lambda network, precision: network)
    assert hashes[0] == hashes[1]


def test_the_vae_computes_in_the_precision_of_the_run_where_that_is_safe(diffuser: Diffuser, tiny: Path) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = (*diffuser.encode(images), diffuser.decode(diffuser.encode(images)[0]))
    half = diffuser.in_precision("bf16")
    found = (*half.encode(images), half.decode(exact[0]))
    for there, here in zip(exact, found, strict=True):
        assert here.dtype == torch.float32
        assert 0 < float((here - there).abs().max()) < 0.03 * float(there.abs().max())
    assert half.vae.decoder.conv_in.weight.dtype == torch.bfloat16
    assert half.vae_identity == {"vae_precision": "bf16"}
    assert drawn_by(half, replace(SETTINGS, precision="bf16"))["precision"] == "bf16 autocast, VAE too"
    plain = load_diffuser(tiny, CPU).in_precision("no")
    assert plain.vae_identity == {}
    assert {p.dtype for p in plain.vae.parameters()} == {torch.float32}
    assert torch.equal(plain.encode(images)[0], exact[0])


@pytest.mark.parametrize(("config", "expected"), [({}, "no"), ({"force_upcast": True}, "no"), ({"force_upcast": False}, "fp16")])
def test_float16_is_for_vaes_that_do_not_overflow_in_it(config: dict, expected: str) -> None:
    assert vae_precision("fp16", config) == expected
    assert vae_precision("bf16", config) == "bf16"


class Small:
    """A network on a device that holds so many rows at once; `tried` are the batches that came."""

    def __init__(self, network: Any, rows: int, message: str = "CUDA out of memory. Tried to allocate 1 GiB") -> None:
        self.network, self.rows, self.message, self.tried = network, rows, message, list[int]()

    def __call__(self, noisy: Tensor, *rest: Any) -> Any:
        self.tried.append(len(noisy))
        if len(noisy) > self.rows:
            raise torch.OutOfMemoryError(self.message)
        return self.network(noisy, *rest)


def test_the_largest_batch_that_fits_is_found_and_remembered(diffuser: Diffuser) -> None:
    network = diffuser.load_denoiser(diffuser.folder)
    whole, small = draw(diffuser, network), Small(network, 4)
    with pytest.warns(UserWarning, match="sampling: 5 at once do not fit into memory; now 2; results change by rounding"):
        halved = draw(diffuser, small)
    assert torch.allclose(whole, halved, atol=1e-5)
    assert small.tried == [10, *[4] * 6, *[2] * 3]  # 2 rows guided are 4; the last one is alone
    small.tried.clear()
    draw(diffuser, small)
    assert max(small.tried) == 4, "what did not fit is not tried again"


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 1 GiB", "an illegal memory access was encountered"])
def test_what_no_smaller_batch_mends_is_raised(diffuser: Diffuser, message: str) -> None:
    with pytest.raises(torch.OutOfMemoryError, match=message), pytest.warns(UserWarning, match="now 1") if "Tried" in message else _quiet():
        draw(diffuser, Small(diffuser.load_denoiser(diffuser.folder), 0, message), batch=2)


class _quiet:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_vae_that_does_not_hold_one_image_goes_over_it_in_tiles(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffuser, images = load_diffuser(tiny, CPU), torch.rand(2, 3, 16, 16)
    exact, encode = diffuser.encode(images)[0], diffuser.vae.encode

    def small(x: Tensor) -> Any:
        if not diffuser.vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return encode(x)

    monkeypatch.setattr(diffuser.vae, "encode", small)
    with pytest.warns(UserWarning, match=r"encoding: (2 at once|one image of \(16, 16\) does not fit, and goes in tiles)"):
        tiled = diffuser.encode(images)[0]
    assert torch.allclose(tiled, exact, atol=1e-5)  # one tile here
    assert not load_diffuser(tiny, CPU).vae.use_tiling


class Waits(TorchDispatchMode):
    """Count how often the host asks for a number that a device would have."""

    count, inside = 0, False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        Waits.count += function is torch.ops.aten._local_scalar_dense.default and not Waits.inside
        return function(*args, **(kwargs or {}))


def test_the_host_reads_every_few_steps_and_the_log_is_the_same(
    diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(samples=10, beta=20.0, steps=7, batch=4, micro_batch=2, lr=1e-3, checkpoint_every=5)

    def aside(function: Any) -> Any:
        def called(*args: Any) -> Any:
            Waits.inside = True
            try:
                return function(*args)
            finally:
                Waits.inside = False

        return called

    found, reads = [], list[int]()
    monkeypatch.setattr(train, "make_batch", aside(make_batch))  # draws are made on the CPU
    monkeypatch.setattr(train, "save_checkpoint", aside(train.save_checkpoint))
    monkeypatch.setattr(train, "read", aside(lambda steps: (reads.append(len(steps)), execution.read(steps))[1]))
    fused = lambda parameters, *_: torch.optim.AdamW(parameters, 1e-3, fused=True)  # noqa: E731 - as on CUDA
    monkeypatch.setattr(train, "make_optimiser", fused)
    for number in (1, 3):
        monkeypatch.setitem(UNREAD, "cpu", number)
        player, opponent = (diffuser.load_denoiser(diffuser.folder) for _ in range(2))
        Waits.count = 0
        with Waits():
            log = train.train(
                player, LiveOpponent(opponent), training_data, diffuser.schedule, settings, 0, 1, tmp_path / str(number), "", None
            )
        found.append((log, player.state_dict()))
        assert Waits.count == 0, "beside what `read` reads, nothing is read"
    assert reads == [*[1] * 7, 3, 2, 2]  # at step 5 a checkpoint is written, and at step 7 the last one
    assert found[0][0].equals(found[1][0])
    assert all(torch.equal(found[0][1][name], weight) for name, weight in found[1][1].items())


def test_a_loss_that_is_not_finite_is_named_though_it_is_read_later(
    diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(rows: range) -> dict[str, Tensor]:
        mean = torch.zeros(10, 4, 8, 8)
        mean[7, 0, 0, 0] = float("inf")
        return {"mean": mean, "std": torch.ones_like(mean)}

    data = replace(training_data, real=build_store(tmp_path / "broken", 10, broken, "broken"))
    messages = []
    for number in (1, 4):
        monkeypatch.setitem(UNREAD, "cpu", number)
        player, opponent = (diffuser.load_denoiser(diffuser.folder) for _ in range(2))
        settings = Settings(samples=10, steps=6, batch=4, lr=1e-3, checkpoint_every=6)
        with pytest.raises(FloatingPointError, match="not finite at step") as raised:
            train.train(player, LiveOpponent(opponent), data, diffuser.schedule, settings, 0, 1, tmp_path / str(number))
        messages.append(str(raised.value))
        assert not (tmp_path / str(number) / train.CHECKPOINT).exists(), "what is broken is not kept"
    assert messages[0] == messages[1]


def test_tensors_go_to_a_gpu_without_waiting() -> None:
    class Seen(Tensor):
        calls: ClassVar[list[Any]] = []

        def pin_memory(self) -> "Seen":  # type: ignore[override]
            self.calls.append("pinned")
            return self

        def to(self, device: torch.device, **how: Any) -> "Seen":  # type: ignore[override]
            self.calls.append((device.type, how))
            return self

    tensor = torch.zeros(1).as_subclass(Seen)
    to_device(tensor, torch.device("cuda"))
    to_device(tensor, CPU)
    assert Seen.calls == ["pinned", ("cuda", {"non_blocking": True}), ("cpu", {})]


@pytest.mark.parametrize(("device", "precision", "last"), [("cpu", "no", False), ("cpu", "bf16", True), ("meta", "no", True)])
def test_channels_come_last_except_in_float32_on_a_cpu(tiny: Path, device: str, precision: Precision, last: bool) -> None:
    network = laid_out(load_denoiser(tiny), torch.device(device), precision)
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last) == last
    assert network.conv_in.weight.device.type == device


def test_the_empty_caption_is_embedded_once(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, embed = list[list[str]](), Diffuser.embed
    monkeypatch.setattr(Diffuser, "embed", lambda self, prompts: (asked.append(prompts), embed(self, prompts))[1])
    run = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(resolution=16))
    plan(run, 1)
    assert asked == [[""]]
    draw(run.diffuser, run.diffuser.denoiser)
    assert asked == [[""], WORDS]


def test_the_base_s_parts_are_hashed_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, linked = tmp_path / "weights", tmp_path / "linked"
    source.write_bytes(b"weights")
    linked.hardlink_to(source)
    first = sha256(source)
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("read again"))
    assert sha256(linked) == first


def test_a_shard_is_written_while_the_next_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it makes the third, a store has the first two."""
    events, save = list[str](), latents.save_file
    rows = 3 * latents.SHARD

    def make(part: range) -> dict[str, Tensor]:
        events.append(f"make {part.start // latents.SHARD}")
        if part.start == 2 * latents.SHARD:
            raise KeyboardInterrupt
        return {"mean": torch.zeros(len(part), 1)}

    monkeypatch.setattr(latents, "save_file", lambda tensors, path, about: (events.append("write"), save(tensors, path, about))[1])
    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path, rows, make, "killed")
    assert [header_of(path)["content"] for path in sorted(tmp_path.glob("*.safetensors"))].__len__() == 2
    assert events[0] == "make 0"
    assert sorted(events) == ["make 0", "make 1", "make 2", "write", "write"]


def test_what_goes_wrong_in_writing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(latents, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        build_store(tmp_path, 3, lambda part: {"mean": torch.zeros(len(part), 1)}, "full")
    assert list(tmp_path.iterdir()) == []


def test_shapes_of_rows_are_known_without_reading(training_data: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "take", lambda *_: pytest.fail("read"))
    assert training_data.real.shape(3) == (4, 8, 8)
    assert latents.Part(training_data.real, [5]).shape(0) == (4, 8, 8)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_guidance_may_be_for_some_noise_levels_only(diffuser: Diffuser, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scales, predict = list[float](), rollout.predict
    monkeypatch.setattr(rollout, "predict", lambda *given: (scales.append(given[5]), predict(*given))[1])
    network = diffuser.load_denoiser(diffuser.folder)
    everywhere = draw(diffuser, network, sampler=sampler)
    assert torch.equal(draw(diffuser, network, sampler=sampler, interval=(0.0, 1e9)), everywhere)
    assert torch.equal(
        draw(diffuser, network, sampler=sampler, interval=(1e8, 1e9)), draw(diffuser, network, sampler=sampler, guidance=1.0)
    )
    scales.clear()
    assert not torch.equal(draw(diffuser, network, sampler=sampler, interval=(0.1, 1.0)), everywhere)
    assert scales[0] == 1.0, "from pure noise without guidance"
    assert 2.0 in scales


def test_noise_levels_are_those_of_the_paper() -> None:
    assert [guided_at(1.0, level**2, (0.28, 5.42)) for level in (0.28, 0.281, 5.42, 5.43)] == [False, True, True, False]
    assert not guided_at(0.0, 1.0, (0.28, 5.42)), "pure noise is of no finite level"
    assert guided_at(0.0, 1.0, ())


def test_guidance_at_some_levels_is_another_opponent_and_costs_less(tiny: Path, images: Path, tmp_path: Path) -> None:
    plain, other = PRESET, PRESET.changed(guidance_interval=(0.2, 5.0))
    assert "guidance_interval" not in plain.identity()
    assert other.identity()["guidance_interval"] == (0.2, 5.0)
    costs = [count(preset, 1, 12, 5, guided=0.5).stages["rollout"].forwards for preset in (plain, other)]
    assert costs[0] == costs[1] == 12 * 2 * 1.5
    lines = plan(prepared_run(tiny, images, tmp_path / "run", other), 1).lines
    assert any("guided at noise levels 0.2 to 5 alone: another opponent" in line for line in lines)
    for wrong in ((1.0,), (2.0, 1.0), (-1.0, 2.0)):
        with pytest.raises(ArgumentError, match="must be two noise levels"):
            PRESET.changed(guidance_interval=wrong)
    assert changed_settings("guidance_interval=(0.28, 5.42), steps=3") == {"guidance_interval": (0.28, 5.42), "steps": 3}
    for text in ("0.28", "(0.28, None)", "high", "((1, 2), 3)"):
        with pytest.raises(
            ArgumentError, match=r"guidance_interval=.* is of the wrong kind; give two noise levels, such as \(0.28, 5.42\)"
        ):
            changed_settings(f"guidance_interval={text}")
    with pytest.raises(ArgumentError, match=r"metrics='clip' is of the wrong kind"):
        changed_settings("metrics=clip")
    with pytest.raises(ArgumentError, match="does nothing at guidance=1"):
        PRESET.changed(guidance_interval=(0.2, 5.0), guidance=1.0)


def test_a_network_is_compiled_once_for_all_steps(diffuser: Diffuser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each shape once: time steps and examples do not count. The backend only counts, so that no compiler is needed here."""
    counter, torch_compile = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda work, **how: torch_compile(work, backend=counter, **how))
    network = diffuser.load_denoiser(diffuser.folder)
    plain = draw(diffuser, network, batch=5)
    compiled(network)
    draw(diffuser, network, batch=5, steps=2)
    once = counter.frame_count
    assert torch.allclose(draw(diffuser, network, batch=5), plain, atol=1e-5)
    assert counter.frame_count == once > 0


def test_blocks_are_compiled_alone_where_they_are_most_of_a_network() -> None:
    asked = list[str]()

    class Block(nn.Linear):
        def compile(self, **_: Any) -> None:
            asked.append("block")

    class Network(nn.Module):
        _repeated_blocks: Sequence[str] = ("Block",)

        def __init__(self, besides: int) -> None:
            super().__init__()
            self.blocks, self.rest = nn.ModuleList([Block(9, 9), Block(9, 9)]), nn.Linear(besides, 1)

        def compile(self, **_: Any) -> None:
            asked.append("whole")

        def compile_repeated_blocks(self, **how: Any) -> None:
            for block in self.blocks:
                block.compile(**how)

    compiled(Network(9))
    compiled(Network(500))
    assert asked == ["block", "block", "whole"]


def test_compiling_is_refused_where_it_cannot_work(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*_: Any, **__: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    assert PRESET.changed(compile=True).identity() == PRESET.identity()
    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(
        ArgumentError, match=r"compile=True needs a C\+\+ compiler, such as g\+\+, which does not work here \(Inv.*give False"
    ):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(compile=True))
    with pytest.raises(ArgumentError, match="Triton"):
        check_compile(torch.device("meta"))


def test_the_plan_counts_and_says_the_warm_up(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = iter([0.0, 3600.0, *(3600.0 + i / 1000 for i in range(1000))])
    monkeypatch.setattr("selfimprove.planning.timing.compiled", lambda network: network)
    monkeypatch.setattr("selfimprove.planning.timing.clock", lambda: next(slow))
    monkeypatch.setattr("selfimprove.run.check_compile", lambda device: None)
    planned = plan(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(compile=True)), 1)
    passes = 2 * (1 + 1) + 1 + 1 + 3  # evaluation and held-out error of two rounds; rollout, opponent, player
    assert any(
        line == f"compiling the networks, once per stage: about {passes * 60:.0f} h".replace("540 h", "9.0 h") for line in planned.lines
    )
    assert planned.minutes == pytest.approx(passes * 60, abs=1)


@pytest.mark.parametrize("rank", [None, 4])
def test_memory_of_frozen_networks_is_halved_in_the_plan(diffuser: Diffuser, rank: int | None) -> None:
    shapes = Shapes.of(diffuser)
    exact, half = (Settings(lora_rank=rank, precision=precision, batch=2) for precision in ("no", "bf16"))
    for plan_of in (lambda s: training_memory(shapes, s, rank is None), lambda s: sampling_memory(shapes, s, 2.0)):
        before, after = plan_of(exact), plan_of(half)
        assert after.pipeline < before.pipeline
        frozen = "opponent" if rank is None and before.opponent else "player"
        assert 0.5 < getattr(after, frozen) / getattr(before, frozen) < 0.8
    held = sum(p.numel() * p.element_size() for p in diffuser.load_frozen(diffuser.folder, "bf16").parameters())
    assert sampling_memory(shapes, half, 2.0).player == held


def test_help_comes_at_once() -> None:
    """Nothing heavy is loaded for it, nor for an error of use."""
    program = (
        "import sys, time, runpy\nsys.argv = ['selfimprove', 'spin', '--help']\n"
        "try: runpy.run_module('selfimprove', run_name='__main__')\n"
        "except SystemExit: print(time.process_time(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    seconds, heavy = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 1
    assert heavy == "False"
