"""What a drift report of two large stored feature sets takes: memory, reads of the store, and time for each layer.

Two sets of n rows are made and stored as extraction stores them, one entry a layer: a residual stream, and the same stream that moves a little
from the middle layer on. A process of its own then compares them and writes the report. Its peak is the resident memory of the whole process,
imports and pictures included; reads are counted at the store. At the default size the making writes 1.5 GB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _turns import conclude
from rich.console import Console
from rich.table import Table

from harness import compare
from harness.store import Key, Store

__all__ = ["main"]

STEPS, MOVED = 50, 0.02  # rows of an episode; what the second stream adds to a layer
MAX_PEAK = 2 * 2**30


@dataclass(frozen=True)
class Result:
    """Of the comparing process: peak resident bytes, reads of each entry (least and most), seconds by the clock and of processor time, verdict, and the
    first place that moved.
    """

    n: int
    width: int
    layers: int
    machine: Mapping[str, int]
    peak: int
    reads: tuple[int, int]
    entries: int
    measuring: float
    writing: float
    processor: float
    verdict: str
    first: str
    expected: str

    def missed(self) -> list[str]:
        """The targets that this run misses, each as a sentence."""
        targets = {
            f"peak memory {self.peak / 2**30:.2f} GiB, below {MAX_PEAK / 2**30:g}": self.peak < MAX_PEAK,
            f"entries are read {self.reads[0]} to {self.reads[1]} times, each once": self.reads == (1, 1),
            f"{self.verdict} from {self.first}, drift from {self.expected}": (self.verdict, self.first) == ("drift", self.expected),
        }
        return [target for target, met in targets.items() if not met]


def key(side: str, layer: int) -> Key:
    return Key("made up", side, "", "", "", "", f"lm.{layer:02d}.output", "mean", "float32", "eager", "cpu", {})


def made(store: Store, n: int, width: int, layers: int) -> None:
    """Both streams; episodes share most of what their rows say."""
    rng, ids = np.random.default_rng(0), [f"episode{row // STEPS}/{row % STEPS:04d}" for row in range(n)]
    scale = np.exp(rng.normal(size=width)).astype(np.float32)
    x = (np.repeat(rng.standard_normal((-(-n // STEPS), width), np.float32), STEPS, axis=0)[:n] + rng.standard_normal((n, width), np.float32)) * scale
    y = x.copy()
    for layer in range(layers):
        added = rng.standard_normal((n, width), np.float32) * scale / 4
        x, y = x + added, y + added
        if layer >= layers // 2:
            y += MOVED * rng.standard_normal((n, width), np.float32) * scale
        for side, rows in (("before", x), ("after", y)):
            store.write(key(side, layer), rows, ids)


def measured(root: Path, draws: int) -> None:
    """Compares and writes, in this process; prints the figures."""
    store, reads, read = Store(root), Counter[str](), Store.read

    def counted(self: Store, key: Key) -> object:
        reads[key.digest] += 1
        return read(self, key)

    Store.read = counted  # type: ignore[method-assign,assignment]
    start, used = time.perf_counter(), time.process_time()
    found = compare.compare(*(f"store:{key(side, 0).digest}" for side in ("before", "after")), stream=None, store=store, draws=draws)
    middle, processor = time.perf_counter(), time.process_time() - used
    compare.write(found, root / "report")
    told = {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "reads": [min(reads.values()), max(reads.values())],
        "entries": len(reads),
        "measuring": middle - start,
        "writing": time.perf_counter() - middle,
        "processor": processor,
        "verdict": found.drift.verdict.word,
        "first": found.drift.first,
    }
    print(json.dumps(told))  # noqa: T201 - read by the process that started this one


def everything(n: int, width: int, layers: int, draws: int, threads: int, scratch: Path | None) -> Result:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        made(Store(Path(folder)), n, width, layers)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--only", folder, "--draws", str(draws)]
        told = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    told["reads"] = tuple(told["reads"])
    machine = {"cores": os.cpu_count() or 1, "threads": threads}
    return Result(n, width, layers, machine, **told, expected=f"lm.{layers // 2:02d}.output")


def show(result: Result, console: Console) -> None:
    table = Table(title=f"{result.layers} layers of {result.n} x {result.width}, twice; {result.machine['threads']} threads")
    for name in ("quantity", "measured"):
        table.add_column(name, justify="left" if name == "quantity" else "right")
    table.add_row("peak resident memory", f"{result.peak / 2**20:.0f} MiB")
    table.add_row("one layer of one side", f"{result.n * result.width * 4 / 2**20:.0f} MiB")
    table.add_row("entries, reads of each", f"{result.entries}, {result.reads[0]} to {result.reads[1]}")
    table.add_row("measuring, a layer", f"{result.measuring / result.layers:.1f} s, {result.processor / result.layers:.1f} s of processor time")
    table.add_row("measuring, all", f"{result.measuring:.0f} s")
    table.add_row("writing the report", f"{result.writing:.1f} s")
    table.add_row("verdict", f"{result.verdict} from {result.first}")
    console.print(table)


def main(
    n: Annotated[int, typer.Option(min=100, help="Samples.")] = 5000,
    width: Annotated[int, typer.Option(min=2, help="Features of a layer.")] = 2048,
    layers: Annotated[int, typer.Option(min=2, help="Layers of each side.")] = 18,
    draws: Annotated[int, typer.Option(min=2, help="Random halves for each interval.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the linear algebra.")] = 2,
    scratch: Annotated[Path | None, typer.Option(help="Where the stores are made, 1.5 GB at the default size.")] = None,
    only: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what a drift report of two large stored feature sets takes."""
    if only is not None:
        measured(only, draws)
        return
    conclude(lambda: everything(n, width, layers, draws, threads, scratch), show, Console(), json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
