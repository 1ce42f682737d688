"""What the benchmarks share: methods timed in turn in one process, ratios round by round, and how a run ends."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import typer
from rich.console import Console

from harness.errors import HarnessError

__all__ = ["Method", "Ratio", "conclude", "ratio", "timed"]

Method = Callable[[], object]


class Ratio(NamedTuple):
    """Median milliseconds of a method; median and quartiles of its time over the base's in the same round."""

    milliseconds: float
    ratio: float
    quartiles: tuple[float, float]

    def __str__(self) -> str:
        return "{:.3f}  {:.3f}-{:.3f}".format(self.ratio, *self.quartiles)


class Measured(Protocol):
    """A dataclass of figures that knows which targets they miss."""

    def missed(self) -> list[str]: ...


Result = TypeVar("Result", bound=Measured)


def timed(methods: Mapping[str, Method], rounds: int, *, finish: Callable[[], object] = lambda: None) -> dict[str, list[float]]:
    """Seconds of every method in every round; the order rotates, a first round warms up and is not counted.

    Garbage is collected and `finish` (of a device's queue) is called outside the clock; `finish` again before it stops.
    """
    names, seconds = list(methods), {name: [] for name in methods}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            gc.collect()
            finish()
            start = time.perf_counter()
            kept = methods[name]()
            finish()
            seconds[name].append(time.perf_counter() - start)
            del kept
    return {name: every[1:] for name, every in seconds.items()}


def ratio(name: str, base: str, seconds: Mapping[str, list[float]]) -> Ratio:
    """A method's time against the base's."""
    low, middle, high = np.percentile(np.divide(seconds[name], seconds[base]), [25, 50, 75]).tolist()
    return Ratio(1e3 * float(np.median(seconds[name])), middle, (low, high))


def conclude(measure: Callable[[], Result], show: Callable[[Result, Console], object], console: Console, json_file: Path | None, *, check: bool) -> None:
    """Measures, shows the figures, writes them, and says which targets are missed; ends with 1 if that was asked for and one is missed,
    with 2 for an error of what is measured.
    """
    try:
        result = measure()
    except HarnessError as error:
        console.print(str(error))
        raise typer.Exit(2) from error
    show(result, console)
    if json_file is not None:
        figures: dict[str, Any] = asdict(result)  # type: ignore[call-overload]
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    missed = result.missed()
    console.print("missed: " + "; ".join(missed) if missed else "every target met")
    raise typer.Exit(int(check and bool(missed)))
