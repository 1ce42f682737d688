"""`harness compare`: two checkpoints, dtypes or stored feature sets on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._app import JsonOption, app, print_json

__all__ = ["compare"]

SIDE = "MODEL:SCALE[=DIRECTORY][@DTYPE], such as openvla:checkpoint=DIR@bfloat16; or store:KEY"


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="BEFORE", help=SIDE)],
    second: Annotated[str, typer.Argument(metavar="AFTER", help="the same")],
    dataset: Annotated[str | None, typer.Option("--dataset", "--dataset_name", "--dataset-name", help="a card or a folder; not for store:KEY")] = None,
    num_episodes: Annotated[int | None, typer.Option("--num_episodes", "--num-episodes", min=1, help="the first N episodes")] = None,
    max_steps: Annotated[int | None, typer.Option("--max_steps_per_episode", "--max-steps-per-episode", min=1, help="the first N of each")] = None,
    output: Annotated[Path, typer.Option("--output", "--output_dir", "--output-dir", help="where the report is written")] = Path("reports/compare"),
    reference: Annotated[str, typer.Option(help="whose embedding of the instruction a probe is asked for; none asks no probe")] = "minilm:real",
    quick: Annotated[bool, typer.Option("--quick", help="measure only the places that a bisection looks at to find the first that moved")] = False,
    draws: Annotated[int, typer.Option(min=2, help="random halves for each interval")] = 50,
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", min=1)] = 16,
    seed: Annotated[int, typer.Option()] = 0,
    store: Annotated[Path | None, typer.Option(help="the store's folder (default: .harness/store)")] = None,
    json: JsonOption = False,
) -> None:
    """Did a checkpoint move, where, and is that more than noise? Exit 0: identical or noise; 1: drift or a different model."""
    from harness import compare as comparing
    from harness import readers, subjects
    from harness.readers import Selection
    from harness.store import Store

    stream = readers.stream(dataset, selection=Selection(num_episodes, max_steps)) if dataset else None
    found = comparing.compare(
        first,
        second,
        stream=stream,
        store=Store(store or subjects.home() / "store"),
        reference=None if reference == "none" else reference,
        quick=quick,
        draws=draws,
        batch_size=batch_size,
        seed=seed,
        progress=lambda text: typer.echo(text, err=True),
    )
    page, verdict = comparing.write(found, output), found.drift.verdict
    if json:
        print_json(comparing.as_json(found.drift))
    else:
        typer.echo(f"{verdict.word}: {verdict.reason}")
        typer.echo(f"report: {page}")
    if not verdict.holds:
        raise typer.Exit(1)
