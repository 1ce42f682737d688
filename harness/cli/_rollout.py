"""`harness rollout`: episodes of a policy in a simulator, recorded as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._app import app, choice, show
from harness.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from harness.types import Broken, Episode

__all__ = ["rollout"]

FORMATS = ("tfrecord", "array_record", "h5")


@app.command()
def rollout(
    output: Annotated[Path, typer.Option(help="the folder to record into; each format gets one of its own in it")],
    environment: Annotated[str, typer.Option(help="the simulator")] = "libero",
    suite: Annotated[str, typer.Option(help="libero_object, libero_spatial, libero_goal, libero_10 or libero_90")] = "libero_object",
    tasks: Annotated[str, typer.Option(help="0:10, or numbers such as 0,3,4")] = "0:10",
    episodes: Annotated[int, typer.Option(min=1, help="of each task")] = 1,
    policy: Annotated[str, typer.Option(help="scripted, or random as a control")] = "scripted",
    formats: Annotated[list[str] | None, typer.Option("--format", help="tfrecord or array_record (RLDS), or h5 (document 003); repeatable")] = None,
    stride: Annotated[int, typer.Option(min=1, help="keep and render every N-th step, and the last")] = 1,
    max_steps: Annotated[int, typer.Option("--max_steps", "--max-steps", min=1, help="where an episode ends at the latest")] = 300,
    size: Annotated[int, typer.Option(min=1, help="pixels of a picture's side")] = 224,
    quality: Annotated[int, typer.Option(min=1, max=100, help="of the pictures' JPEG, in RLDS")] = 95,
    seed: Annotated[int, typer.Option(min=0, help="other seeds begin from other initial states")] = 0,
) -> None:
    """Record episodes from a simulator, with both cameras, proprioception, action, instruction and success; exit 1 if one crashed."""
    from harness import registry
    from harness.rollout import rollout as run

    world = registry.load("environments", choice("environment", environment, registry.names("environments")))(suite=suite, size=size)
    actor = registry.load("policies", choice("policy", policy, registry.names("policies")))()
    chosen = [choice("format", name, FORMATS) for name in formats or ["tfrecord"]]
    told: list[list[str]] = []
    broken: list[Broken] = []
    made = _told(run(world, actor, tasks=_numbers(tasks), episodes=episodes, stride=stride, seed=seed, max_steps=max_steps), told, broken)
    kept = list(made) if len(chosen) > 1 else made  # several recorders need every episode more than once
    places = [str(_recorder(name, suite, quality).write(kept, output / name if name != "h5" else output)) for name in chosen]
    show(["episode", "kept steps", "success"], told, False)
    for place in places:
        typer.echo(place)
    if broken:
        raise DamagedError(f"{len(broken)} episodes crashed and are not recorded", where=broken[0].id, got=broken[0].reason)


def _told(records: Iterator[Episode | Broken], told: list[list[str]], broken: list[Broken]) -> Iterator[Episode]:
    """The episodes that did not crash, each said as it ends."""
    from harness.types import Broken

    for record in records:
        if isinstance(record, Broken):
            broken.append(record)
            typer.echo(f"{record.id}: {record.reason}", err=True)
        else:
            told.append([record.id, str(len(record.steps)), str(record.success)])
            typer.echo(f"{record.id}: {len(record.steps)} steps kept, {'done' if record.success else 'not done'}", err=True)
            yield record


def _recorder(name: str, suite: str, quality: int):  # noqa: ANN202 - the type would import numpy at start
    from harness import registry

    if name == "h5":
        return registry.load("recorders", "h5")()
    return registry.load("recorders", "rlds")(file_format=name, name=suite, quality=quality)


def _numbers(text: str) -> list[int]:
    """The tasks of `0:10` or `0,3,4`. Raises UsageError."""
    first, colon, last = text.partition(":")
    parts = [first or "0", last] if colon else text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError("these are no task numbers", got=text, expected="0:10, or numbers such as 0,3,4")
    numbers = list(map(int, parts))
    return list(range(*numbers)) if colon else numbers
