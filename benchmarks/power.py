"""How often each metric of two arrays calls something evidence: where nothing is there, and where something is.

NULL. 1000 trials of features with nothing to be found, p <= 0.05 with 19 permutations (beating all of them: exactly one in twenty): the
target is 3 to 7 %, less where a metric's values tie. POWER. The share of trials at p <= 0.05 against the size of an effect at n = 100, and
against n at one size. All metrics score the same data, with their default options and 19 permutations. A classifier is too slow for
permutations here: c2st is compared with the 95th percentile of its value in 100 null trials of the same n and width.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from _scenarios import NULLS, SCENARIOS, SIZES, N, noise, widths
from _turns import conclude
from rich.console import Console
from rich.table import Table

from harness.metrics import comparison
from harness.registry import load, names
from harness.scores import score

__all__ = ["main"]

PERMUTATIONS, LEVEL, MARGIN, TIES = 19, 0.05, 0.02, 0.045  # of rejections; below TIES they are lost to ties
SLOW, SLOW_NULLS = "c2st", 50  # the metric too slow for permutations in every trial, and its trials of a null besides the first
NULL_OPTIONS: Mapping[str, Mapping[str, Any]] = {SLOW: {"folds": 2, "products": 0}, "svcca": {"dim": 2}, "cycle_knn": {"topk": 5}}


class Found(NamedTuple):
    """The share of trials called evidence, the share that ties among the values allow, and the number of trials."""

    share: float
    allowed: float
    trials: int

    def calibrated(self) -> bool:
        """Within 3 to 7 % of 1000 trials, less where ties allow less, and as many standard errors of fewer trials."""
        wide = MARGIN * max(1.0, np.sqrt(1000 / self.trials))
        return (self.allowed if self.allowed < TIES else LEVEL) - wide <= self.share <= LEVEL + wide


@dataclass(frozen=True)
class Result:
    """Shares of trials at p <= 0.05: of each null and metric; of each scenario and metric by size of the effect, and by n."""

    trials: int
    null: Mapping[str, Mapping[str, Found]]
    by_size: Mapping[str, Mapping[str, Mapping[float, float]]]
    by_n: Mapping[str, Mapping[str, Mapping[int, float]]]

    def missed(self) -> list[str]:
        """Every null in which a metric is called evidence too often, or less often than ties explain."""
        every = ((case, name, of) for case, found in self.null.items() for name, of in found.items())
        return [f"{name} is called evidence in {of.share:.1%} of trials of {case}" for case, name, of in every if not of.calibrated()]


def kinds(kind: str) -> list[str]:
    return [name for name in names("metrics") if (found := comparison(load("metrics", name))) is not None and found.kind == kind]


def null(kind: str, case: str, name: str, trials: int) -> Found:
    metric = load("metrics", name)
    pairs = (NULLS[kind][case](np.random.default_rng([trial, 1])) for trial in range(trials))
    scores = [score(metric, *pair[:2], **pair.told, **NULL_OPTIONS.get(name, {}), draws=0, permutations=PERMUTATIONS, seed=at) for at, pair in enumerate(pairs)]
    sign = 1 if (kind == "paired") == (comparison(metric).closer == "higher") else -1  # of a metric that is extreme below
    _, counts = np.unique([round(sign * found.value, 9) for found in scores], return_counts=True)
    shares = counts / trials
    return Found(float(np.mean([found.p_value <= LEVEL for found in scores])), float(shares @ (shares.cumsum() - shares) ** PERMUTATIONS), trials)


@lru_cache
def limit(n: int, width: int) -> float:
    """What 5 % of null trials of c2st exceed."""
    metric, draws = load("metrics", SLOW), (np.random.default_rng([trial, 3]) for trial in range(100))
    return float(np.quantile([metric(noise(rng, n, width), noise(rng, n, width)).value for rng in draws], 1 - LEVEL))


def power(scenario: str, name: str, n: int, size: float, trials: int) -> float:
    """The share of trials in which the metric calls an effect of this size evidence."""
    metric, draw = load("metrics", name), SCENARIOS[scenario].draw
    pairs = (draw(np.random.default_rng([trial, 2]), n, size) for trial in range(trials))
    if name == SLOW:
        above = limit(n, widths(scenario))
        return float(np.mean([metric(x, y).value > above for x, y, _ in pairs]))
    scores = (score(metric, x, y, **told, draws=0, permutations=PERMUTATIONS, seed=trial) for trial, (x, y, told) in enumerate(pairs))
    return float(np.mean([found.p_value <= LEVEL for found in scores]))


def measure(trials: int, null_trials: int, jobs: int) -> Result:
    from threadpoolctl import threadpool_limits

    nulls = [(kind, case, name) for kind, cases in NULLS.items() for case in cases for name in kinds(kind)]
    cells = [
        (scenario, name, n, size)
        for scenario, of in SCENARIOS.items()
        for name in kinds(of.kind)
        for n, size in dict.fromkeys([*((N, size) for size in of.sizes), *((n, of.at) for n in SIZES[of.kind])])
    ]
    with ProcessPoolExecutor(jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        found = {task: pool.submit(null, *task, min(null_trials, SLOW_NULLS) if task[2] == SLOW and task[1] != "rows" else null_trials) for task in nulls}
        shares = {task: pool.submit(power, *task, trials // 2 if task[1] == SLOW else trials) for task in cells}
        return gathered({task: future.result() for task, future in found.items()}, {task: future.result() for task, future in shares.items()}, trials)


def gathered(found: Mapping[tuple[str, str, str], Found], shares: Mapping[tuple[str, str, int, float], float], trials: int) -> Result:
    return Result(
        trials,
        {f"{kind} {case}": {name: found[kind, case, name] for name in kinds(kind)} for kind, cases in NULLS.items() for case in cases},
        {scenario: {name: {size: shares[scenario, name, N, size] for size in of.sizes} for name in kinds(of.kind)} for scenario, of in SCENARIOS.items()},
        {scenario: {name: {n: shares[scenario, name, n, of.at] for n in SIZES[of.kind]} for name in kinds(of.kind)} for scenario, of in SCENARIOS.items()},
    )


def curves(result: Result, kind: str, file: Path) -> None:
    """Draws the power of all metrics of a kind: a column for each scenario, above by size of the effect, below by n."""
    from matplotlib.figure import Figure
    from PIL import Image

    chosen = [scenario for scenario, of in SCENARIOS.items() if of.kind == kind]
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    axes = figure.subplots(2, len(chosen), sharey=True)
    for column, scenario in enumerate(chosen):
        of = SCENARIOS[scenario]
        for ax, shares, label in zip(axes[:, column], (result.by_size[scenario], result.by_n[scenario]), (of.effect, f"n, at {of.at:g}"), strict=True):
            for place, (name, curve) in enumerate(shares.items()):
                color = "black" if place % 11 == 10 else f"C{place % 11}"
                style = {"color": color, "linestyle": ("-", "--", ":")[place % 3], "marker": "os^Dv"[place % 5]}
                ax.plot(list(curve), list(curve.values()), label=name, markersize=4, linewidth=1.3, **style)
            ax.axhline(LEVEL, color="0.6", linewidth=0.8, zorder=0)
            ax.set_ylim(-0.03, 1.03)
            ax.set_xlabel(label, size=8.5)
            ax.tick_params(labelsize=8)
        ax.set_xscale("log")
        ax.set_xticks(SIZES[kind], map(str, SIZES[kind]))
        ax.minorticks_off()
        axes[0, column].set_title(scenario, size=10)
    for line in axes:
        line[0].set_ylabel("share of trials at p <= 0.05", size=8.5)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    figure.savefig(file, dpi=90)
    with Image.open(file) as picture:
        few_colours = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)  # half of the bytes
    few_colours.save(file, optimize=True)


def show(result: Result, console: Console) -> None:
    for case, found in result.null.items():
        table = Table("metric", "evidence in", "ties allow", "trials", title=f"nothing to be found: {case.replace('_', ' ')}")
        for name, rate in found.items():
            table.add_row(name, f"{rate.share:.1%}", f"{rate.allowed:.1%}", str(rate.trials))
        console.print(table)
    for scenario, of in SCENARIOS.items():
        table = Table("metric", *map(str, of.sizes), *(f"n {n}" for n in SIZES[of.kind]), title=f"{scenario}: {of.effect}; by n at {of.at:g}")
        for name, shares in result.by_size[scenario].items():
            table.add_row(name, *(f"{share:.2f}" for share in (*shares.values(), *result.by_n[scenario][name].values())))
        console.print(table)


def main(
    trials: Annotated[int, typer.Option(min=2, help="Trials of every effect; half of them for c2st.")] = 50,
    null_trials: Annotated[int, typer.Option(min=10, help="Trials of every null; of c2st with twins and episodes at most 50.")] = 1000,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of one thread each.")] = 2,
    plots: Annotated[Path | None, typer.Option(file_okay=False, help="Also draw paired.png and two_sample.png in this folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a null is missed.")] = False,
) -> None:
    """Measure how often each metric calls something evidence, where nothing is and where something is."""

    def report(result: Result, console: Console) -> None:
        show(result, console)
        for kind in NULLS if plots is not None else ():
            plots.mkdir(parents=True, exist_ok=True)
            curves(result, kind, plots / f"{kind}.png")

    conclude(lambda: measure(trials, null_trials, jobs), report, Console(), json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
