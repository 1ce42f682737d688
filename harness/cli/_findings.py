"""Commands about findings: what holds here, what catches what, and a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli._app import JsonOption, app, show
from harness.errors import UnknownNameError

__all__ = ["doctor", "faults", "findings", "report"]


@app.command()
def doctor(json: JsonOption = False) -> None:
    """What this machine can run, and the command that provides each missing part."""
    from harness.doctor import examine

    rows = examine()
    show(["part", "state", "detail", "next command"], [[row.part, row.state, row.detail, row.next or ""] for row in rows], json)


@app.command()
def findings(
    name: Annotated[str | None, typer.Argument(help="one finding in full")] = None,
    points: Annotated[str | None, typer.Option("--points", metavar="MODEL:SCALE", help="list the extraction points of a subject")] = None,
    json: JsonOption = False,
) -> None:
    """The documented findings, one in full, or the extraction points of a subject."""
    from harness import findings as library

    if points is not None:
        from harness import subjects
        from harness.types import Runtime

        adapter = subjects.load(subjects.resolve(points), Runtime())
        rows = [[str(point), clause.module, clause.side, str(clause.width), clause.norm, str(clause.hidden_states_index)] for point, clause in adapter.clauses.items()]
        show(["point", "module", "side", "width", "norm", "hidden_states"], rows, json)
        return
    listed = {finding.id: finding for document in library.load() for finding in document.finding}
    if name is None:
        show(["finding", "status", "expected", "claim"], [[f.id, f.status, library.expectation(f), f.claim] for f in listed.values()], json)
        return
    if name not in listed:
        raise UnknownNameError("finding", name, listed, next="harness findings lists them")
    finding = listed[name]
    cases = ", ".join(case.id.removeprefix(f"{name}-") for case in library.cases([finding]))
    rows = [[key, str(value)] for key, value in finding.model_dump().items() if value not in (None, [], {}, "")] + [["cases", cases]]
    show(["field", "value"], rows, json)


@app.command()
def faults(json: JsonOption = False) -> None:
    """The mistakes that can be injected, with the findings that catch each."""
    from harness import faults as library
    from harness import findings as known

    caught_by = {name: [f.id for document in known.load() for f in document.finding if name in f.broken_by] for name in library.summaries()}
    rows = [[name, summary, ", ".join(caught_by[name])] for name, summary in library.summaries().items()]
    show(["fault", "mistake", "caught by"], rows, json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="a folder with report.json")] = Path("reports/latest"),
) -> None:
    """Render index.html and report.md again from a run's report.json."""
    from harness.report.files import read, write

    found = read(folder / "report.json")
    write(found, folder)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["counts"].items())
    typer.echo(f"{counts}: {folder / 'index.html'}")
    if found["counts"].get("drifted"):
        raise typer.Exit(1)
