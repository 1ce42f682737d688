"""What π0's latents cost: capturing every residual of both experts in JAX, and prefill alone against sampling with all its steps.

TIME. All methods take the same batch in one process, in turn, the order rotated every round, after a warm-up that compiles. The
ratio of a method is its time over that of the plain sampler, compiled as one program, in the same round; the median and the
quartiles over the rounds are told. Document 004 says that prefill alone is about ten times cheaper than sampling: `prefill`
is the same program cut behind the prefix.

Sizes: `small` has the published sequence (three pictures of 256 tokens, 48 of text, 51 of the expert, ten steps) at a width that a CPU
runs in seconds; `full` is the published π0 with random weights, for a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _turns import Method, Ratio, conclude, ratio, timed
from rich.console import Console
from rich.table import Table

from harness import subjects
from harness.adapters import Adapter
from harness.extract import keeper
from harness.types import Array, Batch, Point, Runtime, Sample

__all__ = ["main"]

PLAIN, OURS, BLOCKS, PREFILL = "plain sampler, one program", "ours: every residual, pooled inside", "ours: block by block, values seen", "prefill alone, one program"
MAX_RATIO = 1.1
STREAMS = ("input", "post_attn", "output")
SMALL = {
    "vocab_size": 4096,
    "paligemma": {"width": 512, "depth": 8, "mlp_dim": 2048, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64},
    "action_expert": {"width": 256, "depth": 8, "mlp_dim": 1024, "num_heads": 8, "num_kv_heads": 1, "head_dim": 64},
    "siglip": {"width": 256, "depth": 6, "mlp_dim": 1024, "num_heads": 4, "patch_size": [14, 14]},
}


@dataclass(frozen=True)
class Result:
    """All that one run measured; `difference` is the largest relative one between the pooled rows of two methods."""

    size: str
    device: str
    dtype: str
    points: int
    tokens: Mapping[str, int]
    rounds: int
    versions: Mapping[str, str]
    rows: Mapping[str, Ratio]
    sampling_over_prefill: float
    difference: float

    def missed(self) -> list[str]:
        """The targets that this run misses, each as a sentence."""
        missed = [f"{OURS} {self.rows[OURS].ratio:.3f}, at most {MAX_RATIO}"] if self.rows[OURS].ratio > MAX_RATIO else []
        limit = 1e-4 if self.dtype == "float32" else 0.05
        return missed + ([] if self.difference <= limit else [f"methods differ by {self.difference:.1e}, at most {limit}"])


def measure(size: str, runtime: Runtime, *, rows: int, rounds: int) -> Result:
    """Times of every method on one batch of `rows` samples with three pictures each. Raises HarnessError."""
    adapter = load(size, runtime)
    rng = np.random.default_rng(0)
    pictures = [{name: rng.integers(0, 256, (224, 224, 3), np.uint8) for name in adapter.cameras} for _ in range(rows)]
    states = rng.normal(size=(rows, adapter.state_width or 8)).astype(np.float32)
    batch = adapter.encode([Sample(str(row), "put the red cup on the plate", pictures[row], states[row]) for row in range(rows)])
    points = [point for point in adapter.clauses if point.stack in ("lm", "expert") and point.stream in STREAMS]
    methods = build_methods(adapter, batch, points)
    first = {name: run() for name, run in methods.items()}
    difference = max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in zip(first[OURS].values(), first[BLOCKS].values(), strict=True))
    seconds = timed(methods, rounds)
    prefill = np.median(np.divide(seconds[PLAIN], seconds[PREFILL]))
    return Result(
        size,
        runtime.device_class,
        runtime.dtype,
        len(points),
        {stack: int(batch.tokens[stack].mask.shape[1]) for stack in ("lm", "expert")},
        rounds,
        {name: metadata.version(name) for name in ("jax", "jaxlib")},
        {name: ratio(name, PLAIN, seconds) for name in methods},
        float(prefill),
        difference,
    )


def load(size: str, runtime: Runtime) -> Adapter:
    subject = subjects.resolve("openpi:full" if size in ("full", "small") else f"openpi:{size}")
    if size == "small":
        subject = replace(subject, config={**subject.config, **SMALL})
    return subjects.load(replace(subject, options={**subject.options, "cameras": ["base", "left", "right"]}), runtime)


def build_methods(adapter: Adapter, batch: Batch, points: list[Point]) -> dict[str, Method]:
    """Every method by name, the plain sampler first; ours place the inputs anew every time, as extraction does."""
    import jax

    from harness.adapters._openpi_sampler import kept, sample

    inputs, steps = adapter.placed(batch)
    keep, last = keeper(batch, points, "mean", adapter.runtime.device), frozenset({Point("lm", "final_norm")})
    return {
        PLAIN: lambda: jax.block_until_ready(sample(adapter.network, inputs, steps=steps)),
        OURS: lambda: _ordered(jax.block_until_ready(adapter.capture(batch, points, keep)), points),
        BLOCKS: lambda: _ordered(jax.block_until_ready(adapter.capture(batch, points, lambda point, value: keep(point, value))), points),
        PREFILL: lambda: jax.block_until_ready(kept(adapter.network, inputs, None, steps=steps, wanted=last)),
    }


def _ordered(rows: Mapping[Point, Array], points: list[Point]) -> dict[Point, Array]:
    return {point: rows[point] for point in points}


def show(result: Result, console: Console) -> None:
    tokens = " and ".join(f"{count} of {stack}" for stack, count in result.tokens.items())
    console.print(f"π0 {result.size}, {result.points} points, tokens {tokens}, {result.rounds} rounds, {result.device}, {result.dtype}")
    console.print(", ".join(f"{name} {version}" for name, version in result.versions.items()))
    table = Table("method", "ms", "ratio, quartiles")
    for name, row in result.rows.items():
        table.add_row(name, f"{row.milliseconds:.0f}", str(row))
    console.print(table)
    console.print(f"sampling over prefill alone: {result.sampling_over_prefill:.2f} (document 004: about 10)")
    console.print(f"largest difference between pooled rows: {result.difference:.1e}")


def main(
    size: Annotated[str, typer.Option(help="small, mock, or full (published size, random weights).")] = "small",
    rows: Annotated[int, typer.Option(min=1, help="Samples in the batch.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; every method runs once in each.")] = 9,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: float32 on a CPU, bfloat16 on a GPU.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what the capture of both experts of π0 costs in JAX."""
    runtime = Runtime(device, dtype or ("float32" if device == "cpu" else "bfloat16"))
    conclude(lambda: measure(size, runtime, rows=rows, rounds=rounds), show, Console(), json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
