"""`harness extract`: features or hidden states of a dataset, into the store or into the files that the documents describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli._app import app, choice, listed, print_json, show, throughput
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.adapters import Adapter
    from harness.extract import FeatureSink, Job, Sink, Summary
    from harness.readers import Stream
    from harness.types import Point

__all__ = ["extract"]

DTYPES = ("float32", "float16", "bfloat16")
DATA, MODEL, OUTPUT, RUN = "Dataset", "Model and points", "Output", "Run"


def _both(name: str) -> tuple[str, str]:
    return f"--{name}", f"--{name.replace('_', '-')}"


@app.command(cls=listed("--residual_stream_types", "--residual-stream-types", "--layers"))
def extract(
    subject: Annotated[str | None, typer.Argument(metavar="[MODEL:SCALE]", help="such as smollm2:real; or --model_path")] = None,
    model_path: Annotated[str | None, typer.Option(*_both("model_path"), help="a checkpoint folder, a published repository, or MODEL:SCALE", rich_help_panel=MODEL)] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="checkpoint directory for MODEL:checkpoint", rich_help_panel=MODEL)] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", *_both("dataset_name"), help="a card, a folder, gs://…, or a registered TFDS name", rich_help_panel=DATA)] = None,
    dataset_split: Annotated[str | None, typer.Option(*_both("dataset_split"), help="such as train or train[:10%]", rich_help_panel=DATA)] = None,
    tfds_data_dir: Annotated[str | None, typer.Option(*_both("tfds_data_dir"), help="where TFDS keeps registered datasets", rich_help_panel=DATA)] = None,
    image_key: Annotated[list[str] | None, typer.Option(*_both("image_key"), help="KEY, or CAMERA=KEY; repeatable", rich_help_panel=DATA)] = None,
    instruction_key: Annotated[str | None, typer.Option(*_both("instruction_key"), help="KEY in the step or episode_metadata.KEY", rich_help_panel=DATA)] = None,
    state_key: Annotated[str | None, typer.Option(*_both("state_key"), help="KEY of the robot's state", rich_help_panel=DATA)] = None,
    reader: Annotated[str | None, typer.Option(help="format of a folder that does not tell", rich_help_panel=DATA)] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="another option of the reader; repeatable", rich_help_panel=DATA)] = None,
    num_episodes: Annotated[int | None, typer.Option(*_both("num_episodes"), min=1, help="the first N (default: 1 in layout steps, else all)", rich_help_panel=DATA)] = None,
    max_steps_per_episode: Annotated[int | None, typer.Option(*_both("max_steps_per_episode"), min=1, help="the first N of each", rich_help_panel=DATA)] = None,
    plan: Annotated[Path | None, typer.Option(help="a list that harness dataset plan made", rich_help_panel=DATA)] = None,
    skip_blank: Annotated[bool, typer.Option(*_both("skip_blank"), help="leave out samples without an instruction, counted", rich_help_panel=DATA)] = False,
    points: Annotated[list[str] | None, typer.Option("--point", help="extraction point such as lm.05.output; repeatable", rich_help_panel=MODEL)] = None,
    layers: Annotated[str, typer.Option(help='"0,6,-1", "0-5" or all, where no --point is given', rich_help_panel=MODEL)] = "all",
    residual_stream_types: Annotated[str, typer.Option(*_both("residual_stream_types"), help="input, output, or both", rich_help_panel=MODEL)] = "output",
    include_layer0_embedding: Annotated[bool, typer.Option(*_both("include_layer0_embedding"), help="also what enters layer 0", rich_help_panel=MODEL)] = False,
    positions: Annotated[str, typer.Option(help='tokens of the sequence in layout steps: "-1", "0,5" or all', rich_help_panel=MODEL)] = "-1",
    pooling: Annotated[str, typer.Option(help="mean, last, first, or one of them over spans: mean:image.0", rich_help_panel=MODEL)] = "mean",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (default: a GPU where there is one)", rich_help_panel=RUN)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (default: bfloat16 in layout steps, else float32)", rich_help_panel=RUN)] = None,
    attention: Annotated[str, typer.Option(help="eager or sdpa", rich_help_panel=RUN)] = "eager",
    no_flash_attention: Annotated[bool, typer.Option(*_both("no_flash_attention"), help="as it is: no flash kernel is ever used", rich_help_panel=RUN)] = False,
    batch_size: Annotated[int, typer.Option(*_both("batch_size"), min=1, rich_help_panel=RUN)] = 16,
    workers: Annotated[int, typer.Option(min=1, help="threads that decode pictures", rich_help_panel=RUN)] = 2,
    engine: Annotated[str, typer.Option(help="local, or ray for a cluster", rich_help_panel=RUN)] = "local",
    address: Annotated[str | None, typer.Option(help="a Ray cluster's address, or auto", rich_help_panel=RUN)] = None,
    actors: Annotated[int | None, typer.Option(min=1, help="models at once with --engine ray", rich_help_panel=RUN)] = None,
    max_failures: Annotated[int, typer.Option(*_both("max_failures"), min=0, help="records that may give no features", rich_help_panel=RUN)] = 0,
    test_mode: Annotated[bool, typer.Option(*_both("test_mode"), help="tiny random weights, and made-up episodes where the dataset is not there", rich_help_panel=RUN)] = False,
    layout: Annotated[str | None, typer.Option(help="store, steps or features (default: steps with --output_dir, else store)", rich_help_panel=OUTPUT)] = None,
    output_dir: Annotated[Path | None, typer.Option(*_both("output_dir"), help="folder of the layouts steps and features", rich_help_panel=OUTPUT)] = None,
    format: Annotated[str, typer.Option(help="pt or npy, in layout steps", rich_help_panel=OUTPUT)] = "pt",
    visualize: Annotated[bool, typer.Option(help="PCA plots of every step and of the run", rich_help_panel=OUTPUT)] = False,
    store: Annotated[str | None, typer.Option(help="the store's folder or fsspec address (default: .harness/store)", rich_help_panel=OUTPUT)] = None,
    json: Annotated[bool, typer.Option("--json", help="print the summary as JSON", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Take features of a dataset from a model. What is there already is not computed again; an interrupted run goes on."""
    from functools import partial
    from inspect import signature

    from harness import registry, subjects
    from harness.cli._model import find_subject
    from harness.extract import Job, StepSink, feature_key, feature_sink, run
    from harness.indices import Indices
    from harness.types import Runtime

    named = subject or model_path
    if named is None or (subject and model_path):
        raise typer.BadParameter("one model is needed: MODEL:SCALE, or --model_path")
    layout = choice("layout", layout or ("steps" if output_dir else "store"), ("store", "steps", "features"))
    if (layout == "store") != (output_dir is None):
        raise UsageError(f"layout {layout} {'has no' if output_dir else 'needs an'} output folder", expected="--output_dir with the layouts steps and features, --store with store")
    dtype = choice("dtype", dtype or ("bfloat16" if layout == "steps" else "float32"), DTYPES)
    runtime = Runtime(device or _best_device(), dtype, choice("attention", attention, ("eager", "sdpa")))  # type: ignore[arg-type]
    keys = {"split": dataset_split, "data_dir": tfds_data_dir, "instruction_key": instruction_key, "state_key": state_key}
    given = {name: value for name, value in keys.items() if value is not None} | _image_key(image_key) | _options(option)
    selection = {"episodes": num_episodes or (1 if layout == "steps" else None), "steps": max_steps_per_episode, "skip_blank": skip_blank}
    stream = _open(dataset, reader, given, selection, plan, test_mode=test_mode)
    adapter = subjects.load(find_subject(named, checkpoint=checkpoint, test_mode=test_mode), runtime)
    wanted = _points(adapter, points, layers, residual_stream_types, embedding=include_layer0_embedding)
    if layout == "steps":
        told = {
            "image_key_used": ", ".join(image_key) if image_key else _default(stream, "image_key"),
            "instruction_key_used": instruction_key or _default(stream, "instruction_key"),
            "layers_extracted": "all" if layers == "all" else sorted({point.layer for point in wanted if point.layer is not None}),
            "model": adapter.subject.id,
            "weights": adapter.subject.weights.digest[:16],
            "dtype": runtime.dtype,
            "stored_dtype": "float32" if format == "npy" and runtime.dtype == "bfloat16" else runtime.dtype,
        }
        asked = Indices.parse(positions, "position")
        key = feature_key(adapter.subject, runtime, stream, wanted[0], "positions").digest
        settings = {"key": key, "points": list(map(str, wanted)), "positions": str(asked), "format": format, "batch": batch_size, "plots": visualize}
        sink: Sink = StepSink(wanted, asked, output_dir, choice("format", format, ("pt", "npy")), dtype, settings, told, visualize)
    else:
        sink = feature_sink(adapter, stream, wanted, root=store or str(subjects.home() / "store"), pooling=pooling)
    job = Job(adapter.subject, runtime, stream, sink, batch_size, workers)
    chosen = registry.load("engines", choice("engine", engine, registry.names("engines")))
    options = {"adapter": adapter, "address": address, "actors": actors}
    taken = {name: value for name, value in options.items() if name in signature(chosen).parameters}
    with throughput(adapter.subject.id, stream.shards) as (through, done):
        summary = run(job, partial(chosen, progress=through, **taken), max_failures=max_failures, progress=lambda _: done())
    _tell(summary, _feats(output_dir, sink, summary, job) if layout == "features" else dict(summary.made), layout, as_json=json)


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _image_key(entries: list[str] | None) -> dict[str, object]:
    """One plain key, or several as CAMERA=KEY. Raises UsageError."""
    pairs = [entry.partition("=") for entry in entries or ()]
    if len(pairs) > 1 and (bare := [key for key, sign, _ in pairs if not sign]):
        raise UsageError("several pictures need a camera each", got=bare[0], expected="--image_key CAMERA=KEY")
    if not pairs:
        return {}
    return {"image_key": {camera: key for camera, _, key in pairs} if pairs[0][1] else pairs[0][0]}


def _options(entries: list[str] | None) -> dict[str, object]:
    """Options of a reader; a value that is JSON is taken as such. Raises UsageError."""
    import json

    found: dict[str, object] = {}
    for entry in entries or ():
        name, sign, value = entry.partition("=")
        if not sign:
            raise UsageError("an option has no value", got=entry, expected="--option NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:  # plain text needs no quotes
            found[name] = value
    return found


def _open(name: str | None, reader: str | None, given: dict[str, object], selection: dict, plan: Path | None, *, test_mode: bool) -> Stream:  # type: ignore[type-arg]
    """The chosen part of the dataset; in test mode made-up episodes stand in for one that is not there."""
    from dataclasses import replace

    from harness import readers
    from harness.cards import dataset_cards

    if name is None:
        raise UsageError("no dataset is named", expected="--dataset NAME", next="harness dataset stats NAME shows what one holds")
    if test_mode and reader is None and name not in dataset_cards() and not Path(name).exists():
        reader, given = "mock", {}
    stream = readers.stream(name, selection=readers.Selection(**selection), reader=reader, options=given)
    if plan is None:
        return stream
    from harness.sampling import load_plan

    return replace(stream, selection=replace(stream.selection, plan=load_plan(plan, stream)))


def _points(adapter: Adapter, points: list[str] | None, layers: str, streams: str, *, embedding: bool) -> tuple[Point, ...]:
    """The points named one by one, else those of the layers of the language model, or of the only stack there is."""
    from harness.extract import step_points
    from harness.indices import Indices
    from harness.types import Point

    if points:
        return tuple(adapter.resolve(Point.parse(point)) for point in points)
    stacks = {point.stack for point in adapter.clauses}
    stack = "lm" if "lm" in stacks else sorted(stacks)[0]
    chosen = [choice("residual stream", name, ("input", "output")) for name in streams.replace(",", " ").split()]
    count = 1 + max(point.layer for point in adapter.clauses if point.stack == stack and point.layer is not None)
    return tuple(map(adapter.resolve, step_points(stack, Indices.parse(layers, "layer").of(count), chosen, embedding=embedding)))


def _default(stream: Stream, name: str) -> str:
    return str(getattr(stream.reader, name, "the format's own"))


def _feats(folder: Path, sink: FeatureSink, summary: Summary, job: Job) -> dict[str, str]:
    """The features that are in the store now, as files of document 004."""
    from harness.extract import write_feats
    from harness.store import Store

    store, subject = Store(sink.root), job.subject
    described = {
        "checkpoint": str(subject.weights.directory or subject.id),
        "model": subject.id,
        "weights": subject.weights.digest,
        "dataset": job.stream.name,
        "pooling": sink.pooling,
        "dtype": job.runtime.dtype,
    }
    return write_feats(folder, {point: store.read(key) for point, key in sink.keys.items()}, described, summary.broken)


def _tell(summary: Summary, made: dict[str, str], layout: str, *, as_json: bool) -> None:
    left = [{"id": record.id, "reason": record.reason} for record in summary.broken]
    if as_json:
        print_json({"layout": layout, "made": made, "rows": summary.rows, "left_out": left, "resumed_shards": summary.resumed, "seconds": round(summary.seconds, 3)})
        return
    show(["point" if layout != "steps" else "layout", "key" if layout == "store" else "path"], [[name, where] for name, where in made.items()], False)
    rate = f"{summary.rows / summary.seconds:.1f} samples a second" if summary.resumed == 0 else f"{summary.resumed} shards were there"
    typer.echo(f"{summary.rows} samples, {len(left)} left out, {summary.seconds:.1f} s ({rate})")
    for reason, count in summary.reasons.items():
        typer.echo(f"  {count} left out: {reason}")
