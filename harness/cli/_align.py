"""Commands that say how close representations are: `harness align` as document 004's compute_cknna.py, and layer by layer."""

from __future__ import annotations

import json as json_format
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from harness.cli._app import JsonOption, app, print_json, progress_bar, show
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.alignment import Episodes
    from harness.store import Store

__all__ = ["align", "align_layers"]

FEATURES = "files (.pt, .npy, .npz:MEMBER), folders of extractions, KEY or KEY:POINT of the store"
DATA, CHANCE, OUTPUT = "Data", "Null and interval", "Output"
StoreOption = Annotated[Path | None, typer.Option("--store", help="the store's folder (default: .harness/store)", rich_help_panel=DATA)]
MetadataOption = Annotated[Path | None, typer.Option("--metadata", help="metadata.json with episode_indices, a row a sample", rich_help_panel=DATA)]
SharedOption = Annotated[bool, typer.Option("--shared", help="take the samples that both sides have", rich_help_panel=DATA)]
SeedOption = Annotated[int, typer.Option("--seed", min=0, rich_help_panel=CHANCE)]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")]
PlotsOption = Annotated[Path | None, typer.Option("--plots", help="folder of the figures (default: beside the output)", rich_help_panel=OUTPUT)]


def _several(*options: str) -> type[TyperCommand]:
    """A command whose `options` may be given once for several words, as in `--topk 5 10 20`; unlike `listed`, a comma stays part of a word."""

    class Several(TyperCommand):
        def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
            repeated: list[str] = []
            for word in args:
                again = len(repeated) > 1 and repeated[-2] in options and not word.startswith("--")
                repeated += [repeated[-2], word] if again else [word]
            return super().parse_args(ctx, repeated)

    return Several


@app.command(cls=_several("--feats_A", "--feats-a", "--topk", "--metric"))
def align(
    feats_a: Annotated[list[str], typer.Option("--feats_A", "--feats-a", help=FEATURES, rich_help_panel=DATA)],
    feats_b: Annotated[str, typer.Option("--feats_B", "--feats-b", help="the reference, the same way", rich_help_panel=DATA)],
    topk: Annotated[list[int] | None, typer.Option("--topk", help="numbers of neighbours, such as 5 10 20 (default: 10)")] = None,
    also_mutual_knn: Annotated[bool, typer.Option("--also_mutual_knn", "--also-mutual-knn", help="mutual_knn too")] = False,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="another metric of pairs, such as cka; repeatable")] = None,
    metadata: MetadataOption = None,
    independent: Annotated[bool, typer.Option("--independent", help="ignore the metadata.json beside the reference", rich_help_panel=DATA)] = False,
    shared: SharedOption = False,
    store: StoreOption = None,
    permutations: Annotated[int, typer.Option(min=0, help="permutations of the null band", rich_help_panel=CHANCE)] = 200,
    draws: Annotated[int, typer.Option(min=0, help="random halves of the interval", rich_help_panel=CHANCE)] = 200,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file; a figure is put beside it", rich_help_panel=OUTPUT)] = None,
    plots: PlotsOption = None,
    json: JsonOption = False,
) -> None:
    """CKNNA of models' features with a reference: the published values, and exact ones with interval, null band and episodes."""
    from harness import alignment

    opened = _store(store)
    reference = alignment.open_rows(feats_b, opened, names=("feats_B.pt", "feats_A.pt"))
    models = [alignment.open_rows(text, opened) for text in feats_a]
    metrics = ["cknna", *(["mutual_knn"] if also_mutual_knn else []), *(metric or [])]
    episodes = None if independent and metadata is None else _episodes(metadata, reference.folder)
    chance, device = alignment.Draws(permutations, draws, seed), device or _best_device()
    with progress_bar() as report:
        found = alignment.align(
            models, reference, topk=topk or [10], metrics=metrics, episodes=episodes, shared=shared, draws=chance, device=device, progress=report
        )
    _note(found.notes)
    result = alignment.as_json(found)
    figures = {".png": alignment.scores_png(found)} if output or plots else {}
    written = _write(result, figures, output, plots, "alignment")
    _tell(result, alignment.as_table(found), written, as_json=json)


@app.command("align-layers")
def align_layers(
    a: Annotated[str, typer.Argument(metavar="ENTRY_A", help="a key of the store, of any point of the extraction, or a folder of points")],
    b: Annotated[str, typer.Argument(metavar="ENTRY_B", help="the other model, the same way")],
    metric: Annotated[str, typer.Option(help="a metric of pairs: cknna, cka, …")] = "cknna",
    topk: Annotated[int, typer.Option(min=1, help="number of neighbours, for metrics that have them")] = 10,
    point_a: Annotated[list[str] | None, typer.Option("--point-a", "--point_a", help="these points of A alone", rich_help_panel=DATA)] = None,
    point_b: Annotated[list[str] | None, typer.Option("--point-b", "--point_b", help="these points of B alone", rich_help_panel=DATA)] = None,
    metadata: MetadataOption = None,
    shared: SharedOption = False,
    store: StoreOption = None,
    permutations: Annotated[int, typer.Option(min=0, help="permutations of every null band", rich_help_panel=CHANCE)] = 0,
    draws: Annotated[int, typer.Option(min=0, help="random halves of every interval", rich_help_panel=CHANCE)] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    held: Annotated[float, typer.Option(min=0.0, help="GiB of A's points to hold at a time")] = 1.0,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file; heat map and page are put beside it", rich_help_panel=OUTPUT)] = None,
    plots: PlotsOption = None,
    json: JsonOption = False,
) -> None:
    """Every point of one model against every point of another, on the samples they share: a matrix, a heat map, a page."""
    from harness import alignment
    from harness.report import style
    from harness.types import Point

    opened = _store(store)
    sides = [alignment.open_points(text, opened).only(tuple(map(Point.parse, points or []))) for text, points in ((a, point_a), (b, point_b))]
    episodes = None if metadata is None else _episodes(metadata, None)
    chance, device = alignment.Draws(permutations, draws, seed), device or _best_device()
    with progress_bar() as report:
        found = alignment.align_layers(
            *sides, metric=metric, topk=topk, episodes=episodes, shared=shared, draws=chance, device=device, held=round(held * 2**30), progress=report
        )
    _note(found.notes)
    result = alignment.layers_json(found)
    figures = {".png": alignment.layers_png(found), ".html": alignment.page(found, style()).encode()} if output or plots else {}
    written = _write(result, figures, output, plots, "layers")
    _tell(result, alignment.layers_table(found), written, as_json=json)


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _tell(result: Mapping[str, Any], table: tuple[list[str], list[list[str]]], written: Sequence[str], *, as_json: bool) -> None:
    """The JSON alone, or the table and what was written."""
    if as_json:
        print_json(result)
        return
    show(*table, False)
    for path in written:
        typer.echo(path)


def _store(root: Path | None) -> Store:
    from harness import subjects
    from harness.store import Store

    return Store(root or subjects.home() / "store")


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _episodes(named: Path | None, beside: Path | None) -> Episodes | None:
    """What --metadata names, else the metadata.json beside the reference, which is told; one that tells no episodes is an error if named."""
    from harness.alignment import read_episodes
    from harness.errors import DamagedError

    if named is not None:
        return read_episodes(named)
    path = None if beside is None else beside / "metadata.json"
    if path is None or not path.is_file():
        return None
    try:
        found = read_episodes(path)
    except DamagedError as error:
        typer.echo(f"note: {path} tells no episodes ({error.got}): rows are taken as independent", err=True)
        return None
    typer.echo(f"note: episodes are those of {path}; --independent takes rows as independent", err=True)
    return found


def _write(result: Mapping[str, Any], figures: Mapping[str, bytes], output: Path | None, plots: Path | None, name: str) -> list[str]:
    """The JSON, and the figures beside it or in their folder, each whole or not at all. Raises UsageError where nothing can be written."""
    from harness.storage import storage

    folder = plots or (output.parent if output else Path())
    stem = output.stem if output else name
    texts = {output: (json_format.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()} if output else {}
    wanted = {**texts, **{folder / f"{stem}{suffix}": data for suffix, data in figures.items()}}
    for path, data in wanted.items():
        try:
            storage(path.parent).write(path.name, data)
        except OSError as error:
            raise UsageError("the result cannot be written", where=path, got=error, next="--output ELSEWHERE") from error
    return list(map(str, wanted))
