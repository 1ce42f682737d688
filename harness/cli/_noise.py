"""`harness noise`: how far a model's features move on this machine when nothing that matters changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._app import JsonOption, app, choice, listed, print_json, show
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.adapters import Adapter
    from harness.noise import Floor
    from harness.types import Broken, Sample

__all__ = ["noise"]

MADE_UP, SPECIAL = "made-up samples", 4  # tokens of a prompt that are no words


@app.command(cls=listed("--points", "--axes"))
def noise(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="MODEL:SCALE, a checkpoint folder, or a published repository")],
    dataset: Annotated[str | None, typer.Option(help="a card, a folder, gs://…, or a registered TFDS name (default: made-up samples)")] = None,
    points: Annotated[str | None, typer.Option(help="extraction points such as lm.05.output (default: the last of every stack)")] = None,
    axes: Annotated[str | None, typer.Option(help="repeat, batch, padding, kernel, threads, dtype (default: all)")] = None,
    samples: Annotated[int, typer.Option(min=2, help="how many are compared: the first step of as many episodes")] = 8,
    pooling: Annotated[str, typer.Option(help="mean, last, first, or one of them over spans: mean:image.0")] = "mean",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    attention: Annotated[str, typer.Option(help="eager or sdpa")] = "eager",
    again: Annotated[bool, typer.Option("--again", help="measure anew, whatever is kept from earlier runs")] = False,
    store: Annotated[Path | None, typer.Option(help="where measurements are kept (default: .harness/store)")] = None,
    json: JsonOption = False,
) -> None:
    """The noise floor of a model on this machine, by point and axis, as fractions of the spread of its features over samples.

    Each figure is the root mean square over all samples, and in brackets that of the sample that moved most.
    """
    from harness import subjects
    from harness.cli._model import find_subject
    from harness.memo import Memo
    from harness.noise import AXES, noise_floor
    from harness.types import Runtime

    wanted = tuple(choice("axis", axis, AXES) for axis in _words(axes)) or AXES
    subject = find_subject(model)
    choice("dtype", dtype, ("float32", "bfloat16", "float16"))
    choice("attention", attention, ("eager", "sdpa"))
    runtime = Runtime(device, dtype, attention)  # type: ignore[arg-type]
    adapter = subjects.load(subject, runtime)
    places = [adapter.resolve(name) for name in _words(points)] or list({point.stack: point for point in adapter.clauses}.values())
    chosen, broken = _samples(adapter, dataset, samples)
    memo = Memo((store or subjects.home() / "store") / "measurements")
    floor = noise_floor(subject, runtime, chosen, places, axes=wanted, pooling=pooling, adapter=lambda: adapter, memo=memo, again=again)
    _tell(floor, dataset or MADE_UP, broken, as_json=json)


def _words(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def _samples(adapter: Adapter, dataset: str | None, most: int) -> tuple[list[Sample], list[Broken]]:
    """The first step of the first episodes, all steps where there is one episode only; and the records that are broken.

    Made-up samples are made to fit the model. Raises UsageError when fewer than two can be read.
    """
    from itertools import islice

    from harness import readers
    from harness.types import Broken, Sample

    if dataset is None:
        made_up = readers.stream("mock", reader="mock", options={"episodes": most, "steps": 1})
        return [_fitted(adapter, record) for record in made_up if isinstance(record, Sample)], []
    for selection in (readers.Selection(steps=1), readers.Selection()):
        records = list(islice(readers.stream(dataset, selection=selection), most))
        found = [record for record in records if isinstance(record, Sample)]
        if len(found) > 1:
            return found, [record for record in records if isinstance(record, Broken)]
    raise UsageError("too few samples to compare", where=dataset, got=f"{len(found)} of {len(records)} records", expected="at least 2")


def _fitted(adapter: Adapter, sample: Sample) -> Sample:
    """The sample with a state as wide as the model takes it, and an instruction no longer than it reads."""
    from dataclasses import replace

    import numpy as np

    words = sample.instruction.split()
    most = len(words) if adapter.prompt_limit is None else max(1, adapter.prompt_limit - SPECIAL)
    state = sample.state if adapter.state_width is None else np.resize(sample.state, adapter.state_width)
    return replace(sample, state=state, instruction=" ".join(words[:most]))


def _tell(floor: Floor, dataset: str, broken: list[Broken], *, as_json: bool) -> None:
    if as_json:
        told = {str(point): {axis: change._asdict() for axis, change in found.items()} for point, found in floor.changes.items()}
        measured = {point: {"floor": floor.of(point), **found} for point, found in told.items()}
        left = [{"id": record.id, "reason": record.reason} for record in broken]
        print_json({"subject": floor.subject, "dataset": dataset, "samples": floor.samples, "points": measured, "absent": dict(floor.absent), "left_out": left})
        return
    axes = list(next(iter(floor.changes.values())))
    figures = {point: [f"{found[axis].value:.1e} ({found[axis].worst:.1e})" for axis in axes] for point, found in floor.changes.items()}
    show(["point", "floor", *axes], [[str(point), f"{floor.of(point):.1e}", *told] for point, told in figures.items()], False)
    kept = f" {floor.detail}" if floor.detail else ""
    typer.echo(f"{floor.subject}, {floor.samples} samples ({dataset}){kept}; the floor is the largest of the axes but dtype")
    for axis, reason in floor.absent.items():
        typer.echo(f"  {axis} is absent: {reason}")
    for record in broken:
        typer.echo(f"  {record.id} is left out: {record.reason}")
