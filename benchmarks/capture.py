"""What the capture of every layer costs: its time against the bare forward, and its memory against keeping all tokens.

TIME. All methods take the same batch in one process, in turn, the order rotated every round, after a warm-up. A
method's ratio is its time over the bare forward's in the same round, so a slow spell of the machine cancels; the
median and the quartiles over the rounds are told.

MEMORY. torch's profiler reports each allocation and release of its allocator, buffers inside kernels included. Their
running sum from an empty start has an exact peak that does not depend on the machine's load, unlike resident memory.
`extra` is a method's peak beyond the peak of the bare forward. It flatters whoever allocates while the forward itself
is low, so the target applies to `own`: the peak of the reductions run alone over kept tokens (transient buffers and
rows), an upper bound of `extra`. Both are percentages of every captured point kept as float32.

On a GPU the clock stops after synchronisation, and peaks are those of the CUDA allocator.

The transformers tuple and nnsight leave hooks or wrappers behind; each has its own modules over the same parameters. They
are measured on text-only subjects; a Vision-Language-Action model is compared with its own bare forward.
"""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from _turns import Method, Ratio, conclude, ratio, timed
from rich.console import Console
from rich.table import Table

from harness import subjects
from harness.extract import keeper
from harness.types import Batch, Point, Runtime, Sample, TokenMap

if TYPE_CHECKING:
    from nnsight import NNsight
    from torch import Tensor, nn

    from harness.adapters._transformer import TransformerAdapter

__all__ = ["main"]

BARE, POOLED, TOKENS = "bare forward", "ours, mean-pooled", "ours, every token"
TUPLE, TUPLE_POOLED, NNSIGHT = "output_hidden_states", "the same, mean-pooled", "nnsight, mean-pooled"
MAX_RATIO, MAX_SHARE, MAX_DIFFERENCE = {"cpu": 1.03, "cuda": 1.02}, 0.05, {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.05}


@dataclass(frozen=True)
class Row:
    """One method: median milliseconds, median and quartiles of its ratio to the bare forward, extra peak bytes, their share."""

    method: str
    time: Ratio
    extra_bytes: int
    extra_share: float


@dataclass(frozen=True)
class Result:
    """All that one run measured; the ratio of the pooled capture and `own_share` carry the targets."""

    subject: str
    device: str
    dtype: str
    shape: tuple[int, int, int]
    points: int
    rounds: int
    machine: Mapping[str, str | int]
    rows: tuple[Row, ...]
    keep_all_bytes: int
    own_share: float
    difference: float
    hooks_left: int

    def missed(self) -> list[str]:
        """The targets that this run misses, each as a sentence."""
        ratio = next(row.time.ratio for row in self.rows if row.method == POOLED)
        targets = {
            f"time ratio {ratio:.3f}, at most {MAX_RATIO[self.device.partition(':')[0]]}": ratio <= MAX_RATIO[self.device.partition(":")[0]],
            f"own peak memory {self.own_share:.2%}, under {MAX_SHARE:.0%}": self.own_share < MAX_SHARE,
            f"methods differ by {self.difference:.1e}, under {MAX_DIFFERENCE[self.dtype]}": self.difference < MAX_DIFFERENCE[self.dtype],
            f"{self.hooks_left} hooks left on the model, none allowed": self.hooks_left == 0,
        }
        return [target for target, met in targets.items() if not met]


def measure(subject_id: str, runtime: Runtime, *, rows: int, tokens: int, rounds: int, nnsight: bool) -> Result:
    """Times and peaks of every method on one batch of `rows` samples without padding. Raises HarnessError."""
    adapter = subjects.load(subjects.resolve(subject_id), runtime)
    points = [point for point in adapter.clauses if point.stream in ("output", "final_norm")]
    batch = synthetic_batch(adapter, rows, tokens)
    rivals = adapter.inputs_used == ("instruction",)
    methods = build_methods(adapter, batch, points, rivals=rivals, nnsight=nnsight and rivals)
    results = {name: run() for name, run in methods.items()}
    difference = worst_difference(adapter, batch, points, results)
    kept = results[TOKENS]
    own = peak_bytes(lambda: list(map(keeper(batch, points, "mean", runtime.device), kept, kept.values())), runtime.device)
    keep_all, shape = sum(4 * value.numel() for value in kept.values()), tuple(kept[points[-1]].shape)
    del results, kept
    peaks, seconds = {name: peak_bytes(run, runtime.device) for name, run in methods.items()}, timed(methods, rounds, finish=synchronize(runtime.device))
    table, hooks = tuple(summary(name, seconds, peaks, keep_all) for name in methods), adapter.state()["hooks"]
    return Result(
        subject_id, runtime.device, runtime.dtype, shape, len(points), rounds, machine(runtime, nnsight=nnsight), table, keep_all, own / keep_all, difference, hooks
    )


def synthetic_batch(adapter: TransformerAdapter, rows: int, tokens: int, *, seed: int = 0) -> Batch:
    """Random token ids, all valid, for a text-only subject; else noise pictures and one instruction of `tokens` words."""
    rng = np.random.default_rng(seed)
    if adapter.inputs_used != ("instruction",):
        words = " ".join(rng.choice(["move", "the", "red", "cup", "left"], tokens))
        pictures = lambda: {name: rng.integers(0, 256, (224, 224, 3), np.uint8) for name in adapter.cameras}  # noqa: E731
        return adapter.encode([Sample(str(row), words, pictures(), rng.normal(size=7).astype(np.float32)) for row in range(rows)])
    import torch

    ids = torch.randint(adapter.model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed)).to(adapter.runtime.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Batch(tuple(map(str, range(rows))), {"input_ids": ids, "attention_mask": mask.long()}, {"lm": TokenMap(mask, {"text": mask, "padding": ~mask})})


def build_methods(adapter: TransformerAdapter, batch: Batch, points: Sequence[Point], *, rivals: bool, nnsight: bool) -> dict[str, Method]:
    """Every method by name, the bare forward first; `rivals` adds the transformers tuple.

    A capture stops after its last point, so the bare forward of a model with heads behind it (logits, actions) stops there too.
    """
    methods: dict[str, Method] = {
        BARE: (lambda: adapter.forward(batch)) if rivals else (lambda: adapter.capture(batch, points[-1:], lambda point, value: value[:, :0])),
        POOLED: lambda: adapter.capture(batch, points, keeper(batch, points, "mean", adapter.runtime.device)),
        TOKENS: lambda: adapter.capture(batch, points),
    }
    if rivals:
        with_hooks, mask = twin(adapter.model), batch.tokens["lm"].mask
        methods[TUPLE] = lambda: hidden_states(with_hooks, batch)
        methods[TUPLE_POOLED] = lambda: [masked_mean(state, mask) for state in hidden_states(with_hooks, batch)]
    if nnsight:
        from nnsight import NNsight

        traced, modules = NNsight(twin(adapter.model)), [adapter.clauses[point].module for point in points]
        methods[NNSIGHT] = lambda: trace(traced, modules, batch)
    return methods


def twin(model: nn.Module) -> nn.Module:
    """Separate modules over the same parameters: what is attached to them never reaches `model`."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def hidden_states(model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """The framework's own tuple; the adapter has frozen every parameter, so no graph is built."""
    return model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Rows (n, d): the usual mean over valid tokens, in the dtype of `values`."""
    return (values * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]


def trace(traced: NNsight, modules: Sequence[str], batch: Batch) -> list[Tensor]:
    """nnsight's trace that saves the mean over tokens of every module's output."""
    with traced.trace(**batch.inputs, use_cache=False):
        rows = list().save()  # a plain [] would not outlive the trace
        for module in modules:
            rows.append(masked_mean(traced.get(module).output, batch.tokens["lm"].mask))
    return rows


def worst_difference(adapter: TransformerAdapter, batch: Batch, points: Sequence[Point], results: Mapping[str, object]) -> float:
    """Largest difference of any method's rows from ours of the same point, relative to the point's largest value."""
    ours, index = results[POOLED], {point: adapter.clauses[point].hidden_states_index for point in points}
    pairs = [(ours[point], masked_mean(results[TOKENS][point], batch.tokens[point.stack].mask)) for point in points]
    if TUPLE_POOLED in results:
        pairs += [(ours[point], results[TUPLE_POOLED][index[point]]) for point in points if index[point] is not None]
    pairs += [(ours[point], row) for point, row in zip(points, results.get(NNSIGHT, ()))]
    return max(float((row - other).abs().max() / row.abs().max()) for row, other in pairs)


def peak_bytes(run: Method, device: str) -> int:
    """Highest sum of live bytes that torch allocated since the start of `run`, its result included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = run()
        del kept
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = run()
    del kept
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]")
    return int(np.cumsum([0, *(change for _, change in changes)]).max())


def synchronize(device: str) -> Method:
    """Waits for the device's queue; nothing on a CPU."""
    import torch

    return (lambda: torch.cuda.synchronize(device)) if device != "cpu" else (lambda: None)


def summary(name: str, seconds: Mapping[str, list[float]], peaks: Mapping[str, int], keep_all: int) -> Row:
    extra = peaks[name] - peaks[BARE]
    return Row(name, ratio(name, BARE, seconds), extra, extra / keep_all)


def machine(runtime: Runtime, *, nnsight: bool) -> dict[str, str | int]:
    """Device, cores, torch's default threads and the versions that the figures depend on."""
    import torch

    names = ("torch", "transformers", "nnsight")[: 3 if nnsight else 2]
    return {"device": runtime.device_class, "dtype": runtime.dtype, "cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), **{name: metadata.version(name) for name in names}}


def show(result: Result, console: Console) -> None:
    console.print(f"{result.subject}, {result.points} points of {result.shape}, {result.rounds} rounds")
    console.print(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    table = Table("method", "ms", "ratio, quartiles", "extra MB", "of all tokens")
    for row in result.rows:
        table.add_row(row.method, f"{row.time.milliseconds:.0f}", str(row.time), f"{row.extra_bytes / 1e6:.2f}", f"{row.extra_share:.1%}")
    console.print(table)
    console.print(f"all tokens as float32: {result.keep_all_bytes / 1e6:.2f} MB; of these, own peak of pooling: {result.own_share:.2%}")
    console.print(f"largest difference between methods: {result.difference:.1e}; hooks left on the model: {result.hooks_left}")


def main(
    family: Annotated[str, typer.Option(help="A model, such as smollm2 or openvla.")] = "smollm2",
    size: Annotated[str, typer.Option(help="Its scale: real, mock, or full (published size, random weights).")] = "real",
    rows: Annotated[int, typer.Option(min=1, help="Samples in the batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of every sample; words, where there are pictures too.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; every method runs once in each.")] = 15,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU if there is one, for size full.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Default: float32 on a CPU, bfloat16 on a GPU.")] = None,
    attention: Annotated[str, typer.Option(help="eager or sdpa.")] = "eager",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what the capture of every layer costs in time and memory."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported; else the profiler writes to stderr
    console, nnsight = Console(), find_spec("nnsight") is not None
    if not nnsight:
        console.print("nnsight left out: not installed; pip install nnsight==0.8.1")
    if device is None:
        import torch

        device = "cuda" if size == "full" and torch.cuda.is_available() else "cpu"
    runtime = Runtime(device, dtype or ("float32" if device == "cpu" else "bfloat16"), attention)
    conclude(lambda: measure(f"{family}:{size}", runtime, rows=rows, tokens=tokens, rounds=rounds, nnsight=nnsight), show, console, json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
