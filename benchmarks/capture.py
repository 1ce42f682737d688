"""What the capture of every layer costs: its time against the bare forward, and its memory against keeping all tokens.

TIME. All methods take the same batch in one process, in turn, the order rotated every round, after a warm-up. A
method's ratio is its time over the bare forward's in the same round, so a slow spell of the machine cancels; the
median and the quartiles over the rounds are told.

MEMORY. torch's profiler reports each allocation and release of its allocator, buffers inside kernels included. Their
running sum from an empty start has an exact peak that does not depend on the machine's load, unlike resident memory.
`extra` is a method's peak beyond the peak of the bare forward. It flatters whoever allocates while the forward itself
is low, so the target applies to `own`: the peak of the reductions run alone over kept tokens (transient buffers and
rows), an upper bound of `extra`. Both are percentages of every captured point kept as float32.

The transformers tuple and nnsight leave hooks or wrappers behind; each has its own modules over the same parameters.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from harness import subjects
from harness.errors import HarnessError, UsageError
from harness.extract import keeper
from harness.types import Batch, Point, Runtime, TokenMap

if TYPE_CHECKING:
    from nnsight import NNsight
    from torch import Tensor, nn

    from harness.adapters._transformer import TransformerAdapter

__all__ = ["main"]

BARE, POOLED, TOKENS = "bare forward", "ours, mean-pooled", "ours, every token"
TUPLE, TUPLE_POOLED, NNSIGHT = "output_hidden_states", "the same, mean-pooled", "nnsight, mean-pooled"
MAX_RATIO, MAX_SHARE, MAX_DIFFERENCE = 1.03, 0.05, 1e-4
Method = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One method: median milliseconds, median and quartiles of its ratio to the bare forward, extra peak bytes, their share."""

    method: str
    milliseconds: float
    ratio: float
    quartiles: tuple[float, float]
    extra_bytes: int
    extra_share: float


@dataclass(frozen=True)
class Result:
    """All that one run measured; the ratio of the pooled capture and `own_share` carry the targets."""

    subject: str
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
        ratio = next(row.ratio for row in self.rows if row.method == POOLED)
        targets = {
            f"time ratio {ratio:.3f}, at most {MAX_RATIO}": ratio <= MAX_RATIO,
            f"own peak memory {self.own_share:.2%}, under {MAX_SHARE:.0%}": self.own_share < MAX_SHARE,
            f"methods differ by {self.difference:.1e}, under {MAX_DIFFERENCE}": self.difference < MAX_DIFFERENCE,
            f"{self.hooks_left} hooks left on the model, none allowed": self.hooks_left == 0,
        }
        return [target for target, met in targets.items() if not met]


def measure(subject_id: str, *, rows: int, tokens: int, rounds: int, nnsight: bool) -> Result:
    """Times and peaks of every method on one random batch (rows, tokens) without padding. Raises HarnessError."""
    adapter = subjects.load(subjects.resolve(subject_id), Runtime())
    points = [point for point in adapter.clauses if point.stream in ("output", "final_norm")]
    batch = random_batch(adapter, rows, tokens)
    methods = build_methods(adapter, batch, points, nnsight=nnsight)
    results = {name: run() for name, run in methods.items()}
    difference = worst_difference(adapter, points, results)
    kept = results[TOKENS]
    own = peak_bytes(lambda: list(map(keeper(batch, points, "mean", adapter.runtime.device), kept, kept.values())))
    keep_all, shape = sum(4 * value.numel() for value in kept.values()), tuple(kept[points[-1]].shape)
    del results, kept
    peaks, seconds = {name: peak_bytes(run) for name, run in methods.items()}, timed(methods, rounds)
    table, hooks = tuple(summary(name, seconds, peaks, keep_all) for name in methods), adapter.state()["hooks"]
    return Result(subject_id, shape, len(points), rounds, machine(nnsight=nnsight), table, keep_all, own / keep_all, difference, hooks)


def random_batch(adapter: TransformerAdapter, rows: int, tokens: int, *, seed: int = 0) -> Batch:
    """Random token ids, all valid. Raises UsageError for a subject that reads more than text."""
    import torch

    if (used := adapter.inputs_used) != ("instruction",):
        raise UsageError("this benchmark feeds token ids", where=adapter.subject.id, got=used, expected="a text-only subject")
    ids = torch.randint(adapter.model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    return Batch(tuple(map(str, range(rows))), inputs, {"lm": TokenMap(mask, {"text": mask, "padding": ~mask})})


def build_methods(adapter: TransformerAdapter, batch: Batch, points: Sequence[Point], *, nnsight: bool) -> dict[str, Method]:
    """Every method by name, the bare forward first."""
    with_hooks, mask = twin(adapter.model), batch.tokens["lm"].mask
    methods: dict[str, Method] = {
        BARE: lambda: adapter.forward(batch),
        POOLED: lambda: adapter.capture(batch, points, keeper(batch, points, "mean", adapter.runtime.device)),
        TOKENS: lambda: adapter.capture(batch, points),
        TUPLE: lambda: hidden_states(with_hooks, batch),
        TUPLE_POOLED: lambda: [masked_mean(state, mask) for state in hidden_states(with_hooks, batch)],
    }
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


def worst_difference(adapter: TransformerAdapter, points: Sequence[Point], results: Mapping[str, object]) -> float:
    """Largest difference of any method's rows from ours of the same point, relative to the point's largest value."""
    ours, index = results[POOLED], {point: adapter.clauses[point].hidden_states_index for point in points}
    pairs = [(ours[point], results[TUPLE_POOLED][index[point]]) for point in points if index[point] is not None]
    pairs += [(ours[point], row) for point, row in zip(points, results.get(NNSIGHT, ()))]
    return max(float((row - other).abs().max() / row.abs().max()) for row, other in pairs)


def peak_bytes(run: Method) -> int:
    """Highest sum of live bytes that torch allocated since the start of `run`, its result included."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = run()
    del kept
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]")
    return int(np.cumsum([0, *(change for _, change in changes)]).max())


def timed(methods: Mapping[str, Method], rounds: int) -> dict[str, list[float]]:
    """Seconds of every method in every round; the order rotates, and garbage is collected outside the clock."""
    names, seconds = list(methods), {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            start = time.perf_counter()
            kept = methods[name]()
            seconds[name].append(time.perf_counter() - start)
            del kept
    return {name: every[1:] for name, every in seconds.items()}  # the first round warms up


def summary(name: str, seconds: Mapping[str, list[float]], peaks: Mapping[str, int], keep_all: int) -> Row:
    (low, ratio, high), extra = np.percentile(np.divide(seconds[name], seconds[BARE]), [25, 50, 75]).tolist(), peaks[name] - peaks[BARE]
    return Row(name, 1e3 * float(np.median(seconds[name])), ratio, (low, high), extra, extra / keep_all)


def machine(*, nnsight: bool) -> dict[str, str | int]:
    """Cores, torch's default threads and the versions that the figures depend on."""
    import torch

    names = ("torch", "transformers", "nnsight")[: 3 if nnsight else 2]
    return {"cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), **{name: metadata.version(name) for name in names}}


def show(result: Result, console: Console) -> None:
    console.print(f"{result.subject}, {result.points} points of {result.shape}, {result.rounds} rounds")
    console.print(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    table = Table("method", "ms", "ratio, quartiles", "extra MB", "of all tokens")
    for row in result.rows:
        ratio = "{:.3f}  {:.3f}-{:.3f}".format(row.ratio, *row.quartiles)
        table.add_row(row.method, f"{row.milliseconds:.0f}", ratio, f"{row.extra_bytes / 1e6:.2f}", f"{row.extra_share:.1%}")
    console.print(table)
    console.print(f"all tokens as float32: {result.keep_all_bytes / 1e6:.2f} MB; of these, own peak of pooling: {result.own_share:.2%}")
    console.print(f"largest difference between methods: {result.difference:.1e}; hooks left on the model: {result.hooks_left}")


def main(
    subject: Annotated[str, typer.Option(help="A text-only subject, model:scale.")] = "smollm2:real",
    rows: Annotated[int, typer.Option(min=1, help="Samples in the batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of every sample.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; every method runs once in each.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what the capture of every layer costs in time and memory."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported; else the profiler writes to stderr
    console, nnsight = Console(), find_spec("nnsight") is not None
    if not nnsight:
        console.print("nnsight left out: not installed; pip install nnsight==0.8.1")
    try:
        result = measure(subject, rows=rows, tokens=tokens, rounds=rounds, nnsight=nnsight)
    except HarnessError as error:
        console.print(str(error))
        raise typer.Exit(2) from error
    show(result, console)
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    missed = result.missed()
    console.print("missed: " + "; ".join(missed) if missed else "every target met")
    raise typer.Exit(int(check and bool(missed)))


if __name__ == "__main__":
    typer.run(main)
