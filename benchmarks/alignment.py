"""What CKNNA costs against the dense formulation it was published with, and against one bare product of all rows.

TIME. The methods take the same rows in one process, in turn, the order rotated every round, after a warm-up. `bare product` is
A A^T of the wider side's rows in float32, its result discarded. `dense` writes the published formula down as it was
published (platonic-rep): n by n kernels, masks and products, in float32. Ratios are taken within a round, so a slow spell of the machine
cancels; median and quartiles over the rounds are told. All run with two threads of torch.

MEMORY. Each method runs once in a process of its own, after a small warm-up that loads libraries and their buffers. `extra` is
its highest resident memory less the resident memory before it. Linux only: the high-water mark is reset through /proc.

GROWTH. The exponent b of time ~ n^b, from n/2 to 2n. A whole of 50,000 samples is measured on demand (--large).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from _turns import Method, Ratio, conclude, ratio, timed
from rich.console import Console
from rich.table import Table

from harness.metrics._neighbours import ONCE, neighbours
from harness.metrics.cknna import cknna

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["main"]

BARE, DENSE, OURS, THREE = "bare product", "dense, as published", "ours", "ours, topk 5, 10 and 20"
TOPK, EPS = 10, 1e-6
MIN_SPEEDUP, MAX_BARE, MAX_MEMORY, MAX_THREE, MAX_GROWTH, MAX_LARGE, MAX_DIFFERENCE = 8.0, 1.3, 0.05, 1.2, 2.1, 3 * 2**30, 1e-5


@dataclass(frozen=True)
class Result:
    """All that one run measured: times against the bare product, extra peak bytes, the exponent of growth, the large run's peak."""

    n: int
    widths: tuple[int, int]
    rounds: int
    machine: Mapping[str, str | int]
    rows: Mapping[str, Ratio]
    speedup: Ratio
    three: Ratio
    extra_bytes: Mapping[str, int]
    growth: float
    difference: float
    large: Mapping[str, float] | None

    def missed(self) -> list[str]:
        """The targets that this run misses, each as a sentence."""
        share = self.extra_bytes[OURS] / self.extra_bytes[DENSE]
        targets = {
            f"{self.speedup.ratio:.2f} times as fast as dense, at least {MIN_SPEEDUP}": self.speedup.ratio >= MIN_SPEEDUP,
            f"{self.rows[OURS].ratio:.3f} times the bare product, at most {MAX_BARE}": self.rows[OURS].ratio <= MAX_BARE,
            f"{share:.2%} of the dense one's extra memory, under {MAX_MEMORY:.0%}": share < MAX_MEMORY,
            f"three topk cost {self.three.ratio:.3f} times one, at most {MAX_THREE}": self.three.ratio <= MAX_THREE,
            f"time grows as n^{self.growth:.2f}, at most n^{MAX_GROWTH}": self.growth <= MAX_GROWTH,
            f"differs from dense by {self.difference:.1e}, under {MAX_DIFFERENCE}": self.difference < MAX_DIFFERENCE,
        }
        if self.large is not None:
            targets[f"{self.large['n']:.0f} samples reach {self.large['peak_bytes'] / 2**30:.2f} GiB, under 3"] = self.large["peak_bytes"] < MAX_LARGE
        return [target for target, met in targets.items() if not met]


def pair(n: int, widths: tuple[int, int], *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and (n, e) in float32, the second a noisy linear image of the first."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, widths[0]), np.float32)
    y = x[:, : min(64, widths[0])] @ rng.standard_normal((min(64, widths[0]), widths[1]), np.float32)
    return x, y + 2 * rng.standard_normal(y.shape, np.float32)


def dense(x: np.ndarray, y: np.ndarray, *, topk: int = TOPK) -> float:
    """CKNNA by the published formula on normalised rows: every kernel and mask n by n, in float32."""
    import torch

    kernels = [side @ side.T for side in (torch.nn.functional.normalize(torch.from_numpy(rows), dim=-1) for rows in (x, y))]

    def alignment(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        masks = []
        for kernel in (k, l):
            others = kernel.clone().fill_diagonal_(-torch.inf)
            masks.append(torch.zeros_like(kernel).scatter_(1, others.topk(topk, dim=1).indices, 1))
        shared = masks[0] * masks[1]
        return hsic(shared * k, shared * l)

    def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        k, l, n = k.clone().fill_diagonal_(0), l.clone().fill_diagonal_(0), len(k)  # noqa: E741
        return ((k * l.T).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l).sum() / (n - 2)) / (n * (n - 3))

    k, l = kernels  # noqa: E741
    return float(alignment(k, l) / (torch.sqrt(alignment(k, k) * alignment(l, l)) + EPS))


def several(x: np.ndarray, y: np.ndarray) -> list[float]:
    """CKNNA at topk 5, 10 and 20 from one search."""
    found = [neighbours(rows, topk=20, spare=ONCE) for rows in (x, y)]
    return [cknna(*found, topk=k, eps=EPS) for k in (5, 10, 20)]


def build_methods(x: np.ndarray, y: np.ndarray) -> dict[str, Method]:
    import torch

    rows = torch.from_numpy(x)
    return {BARE: lambda: rows @ rows.T, OURS: lambda: cknna(x, y, topk=TOPK, eps=EPS), THREE: lambda: several(x, y), DENSE: lambda: dense(x, y)}


def measure(n: int, widths: tuple[int, int], *, rounds: int, large: int | None) -> Result:
    x, y = pair(n, widths)
    methods = build_methods(x, y)
    difference = abs(float(methods[OURS]()) - float(methods[DENSE]()))  # type: ignore[arg-type]
    seconds = timed(methods, rounds)
    sizes = {size: pair(size, widths) for size in (n // 2, 2 * n)}
    grown = timed({str(size): lambda rows=rows: cknna(*rows, topk=TOPK, eps=EPS) for size, rows in sizes.items()}, max(2, rounds // 2))
    growth = float(np.log(np.median(np.divide(grown[str(2 * n)], grown[str(n // 2)]))) / np.log(4))
    extra = {name: alone(name, n, widths)["extra_bytes"] for name in (DENSE, OURS)}
    return Result(
        n, widths, rounds, machine(), {name: ratio(name, BARE, seconds) for name in methods}, ratio(DENSE, OURS, seconds), ratio(THREE, OURS, seconds),
        {name: int(value) for name, value in extra.items()}, growth, difference, None if large is None else alone(OURS, large, widths),
    )  # fmt: skip


def machine() -> dict[str, str | int]:
    import torch

    return {"cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), **{name: metadata.version(name) for name in ("torch", "numpy")}}


def alone(method: str, n: int, widths: tuple[int, int]) -> dict[str, float]:
    """Extra and whole peak bytes and seconds of a method in a process of its own."""
    command = [sys.executable, __file__, "--only", method, "--n", str(n), "--widths", *map(str, widths)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("extra_bytes", "peak_bytes", "seconds")
    return {"n": float(n), **dict(zip(names, map(float, text.split()[-3:]), strict=True))}


def alone_here(method: str, n: int, widths: tuple[int, int], console: Console) -> None:
    """Runs the method in this process and writes its figures."""
    build_methods(*pair(300, widths))[method]()
    run = build_methods(*pair(n, widths))[method]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    before, start = resident("VmRSS"), time.perf_counter()
    run()
    console.print(resident("VmHWM") - before, resident("VmHWM"), time.perf_counter() - start)


def resident(field: str) -> int:
    """Bytes of this process's resident memory: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def show(result: Result, console: Console) -> None:
    console.print(f"CKNNA of {result.n} samples, widths {result.widths}, topk {TOPK}, {result.rounds} rounds")
    console.print(", ".join(f"{name} {value}" for name, value in result.machine.items()))
    table = Table("method", "ms", "ratio to bare, quartiles", "extra MB")
    for name, row in result.rows.items():
        table.add_row(name, f"{row.milliseconds:.0f}", str(row), f"{result.extra_bytes[name] / 1e6:.1f}" if name in result.extra_bytes else "")
    console.print(table)
    console.print(f"dense over ours: {result.speedup}; three topk over one: {result.three}; time ~ n^{result.growth:.2f}; difference {result.difference:.1e}")
    console.print(f"extra memory, ours over dense: {result.extra_bytes[OURS] / result.extra_bytes[DENSE]:.2%}")
    if result.large is not None:
        console.print(f"{result.large['n']:.0f} samples: {result.large['seconds']:.0f} s, peak {result.large['peak_bytes'] / 2**30:.2f} GiB")


def main(
    n: Annotated[int, typer.Option(min=100, help="Samples.")] = 5000,
    widths: Annotated[tuple[int, int], typer.Option(help="Features of the two sides.")] = (2048, 7),
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; every method runs once in each.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    large: Annotated[int | None, typer.Option(help="Also one run of this many samples, such as 50000: minutes.")] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what CKNNA costs in time and memory."""
    import torch

    torch.set_num_threads(threads)
    console = Console()
    if only is not None:
        return alone_here(only, n, widths, Console(width=200, highlight=False))
    conclude(lambda: measure(n, widths, rounds=rounds, large=large), show, console, json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
