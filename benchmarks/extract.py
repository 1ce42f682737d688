"""What a whole extraction costs beside the model: reading, decoding, encoding, batching, writing.

END TO END. Recorded episodes (RLDS, array_record, JPEG) through a mock OpenVLA wide enough to dominate, into a fresh store, against the
bare batched forward: the same batches, encoded beforehand, captured and pooled at the same points. The ratio of throughputs is
the share of the time in which the model works.

THE SCRIPT. The layout of document 000 by this harness against the documented way of getting it: one step after the other through
tensorflow-datasets, a forward with batch 1 that keeps every token of every layer on the host, one file for each layer. Same model,
same files; at the mock's own size, where a step is milliseconds.

READING. Steps a second from array_record and from tfrecord, pictures left encoded. MEMORY. Peak resident memory of a process that
extracts 10 steps, and of one that extracts 10,000. RAY, with --ray: two workers of one thread against one, from the first shard that
is done to the last.

Everything is written to memory (/dev/shm) where there is such a place: making five small files a step costs a slow disk more than
either program does, and both alike. `--scratch DIR` writes elsewhere.

The steps of the script are recorded as PNG: TensorFlow and Pillow decode a JPEG to slightly different pixels, which moves this model's
hidden states by up to 2 %.

Methods run in turn in one process, the order rotates, after a round that warms up; medians and quartiles of the ratios are told.
"""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _turns import Method, Ratio, conclude, ratio, timed
from rich.console import Console
from rich.table import Table

from harness import readers, subjects
from harness.adapters import Adapter
from harness.engines.local import local
from harness.extract import Job, StepSink, feature_sink, keeper, run, step_points
from harness.indices import Indices
from harness.readers import Stream
from harness.recorders.rlds import RLDSRecorder
from harness.types import Episode, Point, Runtime, Sample

__all__ = ["main"]

BARE, OURS, SCRIPT, STEPS = "bare batched forward", "ours, RLDS to store", "the documented script", "ours, the same files"
ONE, TWO = "one worker", "two workers"
ARRAY, TFRECORD = "array_record", "tfrecord"
MEMORY = Path("/dev/shm")  # noqa: S108 - a disk in memory
MIN_SHARE, MIN_SPEEDUP, MAX_GROWTH = 0.95, 3.0, 1.05
BATCH = 16
WIDE = {
    "image_sizes": [112, 112],
    "timm_model_overrides": [{"embed_dim": 256, "depth": 6, "num_heads": 4}, {"embed_dim": 256, "depth": 6, "num_heads": 4}],
    "text_config": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 6, "num_key_value_heads": 6},
}
TASKS = ("pick up the mug", "put the red bowl on the plate next to the drawer", "open the drawer", "push the green block to the left of the tray")


@dataclass(frozen=True)
class Result:
    """All that one run measured. `share` is the bare forward's time over ours, `speedup` the script's over ours, `growth` the
    memory of 10,000 steps over that of 10, `ray` the throughput of two workers over that of one where it was asked for.
    """

    steps: int
    rounds: int
    rows: Mapping[str, Mapping[str, Ratio]]
    share: float
    speedup: float
    difference: float
    reading: float
    peaks: Mapping[str, int]
    growth: float
    ray: float | None

    def missed(self) -> list[str]:
        """The targets that this run misses, each as a sentence."""
        targets = {
            f"the model works {self.share:.1%} of the time, at least {MIN_SHARE:.0%}": self.share >= MIN_SHARE,
            f"{self.speedup:.2f} times the script, at least {MIN_SPEEDUP}": self.speedup >= MIN_SPEEDUP,
            f"files differ by {self.difference:.1e}, at most 1e-4": self.difference <= 1e-4,
            f"memory grows by {self.growth:.3f} from 10 to 10,000 steps, at most {MAX_GROWTH}": self.growth <= MAX_GROWTH,
        }
        return [target for target, met in targets.items() if not met]


def recorded(folder: Path, episodes: int, steps: int, *, image_format: str = "jpeg") -> dict[str, Path]:
    """The same made-up episodes in both file formats: two cameras of smooth 224 x 224 pictures, as JPEG compresses real ones."""

    def made() -> Iterator[Episode]:
        rng = np.random.default_rng(0)
        for number in range(episodes):
            task, waves = TASKS[number % len(TASKS)], rng.uniform(1, 9, (steps, 2, 3, 2))
            grid = np.linspace(0, 1, 224)
            rows = []
            for step in range(steps):
                pictures = [np.stack([127 + 120 * np.outer(np.sin(a * grid), np.cos(b * grid)) for a, b in waves[step, camera]], -1).astype(np.uint8) for camera in (0, 1)]
                state, action = (rng.normal(size=width).astype(np.float32) for width in (8, 7))
                rows.append(Sample(f"{number}/{step}", task, dict(zip(("primary", "wrist"), pictures, strict=True)), state, action, task, str(number), step))
            yield Episode(f"episode_{number:04d}", task, rows, True, {"task": task})

    return {form: RLDSRecorder(file_format=form, image_format=image_format).write(made(), folder / form) for form in (ARRAY, TFRECORD)}


def loaded(*, wide: bool) -> Adapter:
    subject = subjects.resolve("openvla:mock")
    if wide:
        config = {**subject.config, **WIDE, "text_config": {**subject.config["text_config"], **WIDE["text_config"]}}
        subject = replace(subject, config=config)
    return subjects.load(subject, Runtime())


def end_to_end(path: Path, scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of the bare forward over batches that are ready, and of a whole extraction, in turn."""
    adapter, stream = loaded(wide=True), readers.stream(str(path))
    points = [adapter.resolve(Point.parse(point)) for point in ("lm.-1.output", "lm.final_norm")]
    batches = []
    for number in range(stream.shards):
        samples = sorted(stream.shard(number), key=lambda sample: len(sample.instruction))
        batches += [adapter.encode(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]

    def bare() -> None:
        for batch in batches:
            adapter.capture(batch, points, keeper(batch, points, "mean", "cpu"))

    def ours() -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        job = Job(adapter.subject, adapter.runtime, stream, feature_sink(adapter, stream, points, root=str(scratch)), BATCH)
        run(job, partial(local, adapter=adapter))

    return timed({BARE: bare, OURS: ours}, rounds)


def against_the_script(paths: Mapping[str, Path], scratch: Path, rounds: int) -> tuple[dict[str, list[float]], float]:
    """Seconds of both ways to the documented files of the same steps, and the largest relative difference between their numbers."""
    adapter, stream = loaded(wide=False), readers.stream(str(paths[TFRECORD]))
    count = 1 + max(point.layer for point in adapter.clauses if point.stack == "lm" and point.layer is not None)
    points = step_points("lm", range(count), ["output"], embedding=False)

    def script() -> None:
        shutil.rmtree(scratch / "script", ignore_errors=True)
        documented_script(adapter, paths[TFRECORD], points, scratch / "script")

    def ours() -> None:
        shutil.rmtree(scratch / "ours", ignore_errors=True)
        sink = StepSink(points, Indices.parse("-1"), scratch / "ours", "pt", "float32", {}, {})
        run(Job(adapter.subject, adapter.runtime, stream, sink, BATCH), partial(local, adapter=adapter))

    methods: dict[str, Method] = {SCRIPT: script, STEPS: ours}
    seconds = timed(methods, rounds)
    return seconds, difference(scratch / "script", scratch / "ours")


def documented_script(adapter: Adapter, path: Path, points: tuple[Point, ...], folder: Path) -> None:
    """Document 000 as it describes itself: episodes and steps in order, one forward each, every hidden state brought to the host."""
    import os

    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}  # read when TensorFlow is imported
    import tensorflow_datasets as tfds
    import torch

    for number, episode in enumerate(tfds.builder_from_directory(str(path)).as_dataset(split="train")):
        task = episode["episode_metadata"]["natural_language_instruction"].numpy().decode()
        for index, step in enumerate(episode["steps"]):
            sample = Sample(str(index), task, {"primary": step["observation"]["image"].numpy()})
            kept = adapter.capture(adapter.encode([sample]), points, lambda point, values: values.clone())
            place = folder / f"train_{number:06d}" / f"step_{index:04d}"
            place.mkdir(parents=True)
            for point, values in kept.items():
                torch.save(values[0, [-1]].clone(), place / f"layer_{point.layer}_residual_output.pt")
            shapes = {f"L_{point.layer}_residual_output": [1, values.shape[2]] for point, values in kept.items()}
            action = step["action"].numpy().tolist()
            meta = {"episode_id": str(number), "step_index": index, "original_instruction": task, "embedding_shapes": shapes, "action_from_dataset": action}
            (place / "step_metadata.json").write_text(json.dumps(meta, indent=2))


def difference(one: Path, other: Path) -> float:
    """The largest difference of two trees' tensors, relative to the largest value of each; their files must be the same ones."""
    import torch

    names = [sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.pt")) for folder in (one, other)]
    if names[0] != names[1] or not names[0]:
        raise SystemExit(f"the two ways give other files: {len(names[0])} and {len(names[1])}")
    pairs = ([torch.load(io.BytesIO((folder / name).read_bytes()), weights_only=True) for folder in (one, other)] for name in names[0])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def reading(paths: Mapping[str, Path], rounds: int) -> dict[str, list[float]]:
    """Seconds to read every step of both formats, pictures left encoded."""
    streams = {form: readers.stream(str(path)) for form, path in paths.items()}
    return timed({form: lambda stream=stream: sum(1 for _ in stream) for form, stream in streams.items()}, rounds)


def by_ray(scratch: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds that one worker and two take for 4,000 made-up steps, without the start."""
    from harness.engines.ray import ray

    stream, adapter = readers.stream("made up", reader="mock", options={"episodes": 400, "steps": 10}), loaded(wide=False)
    seconds: dict[str, list[float]] = {ONE: [], TWO: []}
    for name, actors in (pair for number in range(rounds) for pair in (((ONE, 1), (TWO, 2)) if number % 2 else ((TWO, 2), (ONE, 1)))):
        shutil.rmtree(scratch, ignore_errors=True)
        job = Job(adapter.subject, adapter.runtime, stream, feature_sink(adapter, stream, [Point("lm", "final_norm")], root=str(scratch)), 16, threads=1)
        times: list[float] = []
        run(job, partial(ray, actors=actors), progress=lambda done, times=times: times.append(time.monotonic()))
        seconds[name].append((times[-1] - times[0]) / (len(times) - 1) * len(times))
    return seconds


def peak_of(steps: int) -> int:
    """Peak resident bytes of a new process that extracts so many made-up steps."""
    text = subprocess.run([sys.executable, __file__, "--only-memory", str(steps)], capture_output=True, text=True, check=True).stdout
    return int(text.split()[-1])


def extract_made_up(steps: int) -> int:
    """Extracts `steps` made-up steps, in episodes of 10, and gives this process's peak resident bytes."""
    stream: Stream = readers.stream("made up", reader="mock", options={"episodes": steps // 10, "steps": 10})
    adapter = loaded(wide=False)
    with tempfile.TemporaryDirectory() as folder:
        sink = feature_sink(adapter, stream, [Point("lm", "final_norm")], root=folder)
        run(Job(adapter.subject, adapter.runtime, stream, sink, 5), partial(local, adapter=adapter))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(episodes: int, steps: int, rounds: int, scratch: Path | None, with_ray: bool) -> Result:
    """Every figure. Raises HarnessError."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        paths = recorded(Path(folder), episodes, steps)
        whole = end_to_end(paths[ARRAY], Path(folder) / "store", rounds)
        few = recorded(Path(folder) / "few", 48, 4, image_format="png")  # which every decoder decodes alike
        files, gap = against_the_script(few, Path(folder) / "trees", rounds)
        read = reading(paths, rounds)
        workers = by_ray(Path(folder) / "ray", rounds) if with_ray else {}
    peaks = {str(count): peak_of(count) for count in (10, 10_000)}
    rows = {
        "end to end": {name: ratio(name, BARE, whole) for name in whole},
        "document 000's files": {name: ratio(name, SCRIPT, files) for name in files},
        "reading": {name: ratio(name, TFRECORD, read) for name in read},
        "Ray": {name: ratio(name, ONE, workers) for name in workers},
    }
    share, speedup = 1 / rows["end to end"][OURS].ratio, 1 / rows["document 000's files"][STEPS].ratio
    scaling = 1 / rows["Ray"][TWO].ratio if workers else None
    return Result(episodes * steps, rounds, rows, share, speedup, gap, 1 / rows["reading"][ARRAY].ratio, peaks, peaks["10000"] / peaks["10"], scaling)


def show(result: Result, console: Console) -> None:
    console.print(f"{result.steps} steps, {result.rounds} rounds")
    table = Table("what", "method", "ms", "ratio, quartiles")
    for what, methods in result.rows.items():
        for name, row in methods.items():
            table.add_row(what, name, f"{row.milliseconds:.0f}", str(row))
    console.print(table)
    console.print(f"the model works {result.share:.1%} of the time; {result.speedup:.2f} times the script's speed, files differ by {result.difference:.1e}")
    console.print(f"array_record is read {result.reading:.2f} times as fast as tfrecord; peak memory {', '.join(f'{n} steps {b / 1e6:.0f} MB' for n, b in result.peaks.items())}")


def main(
    episodes: Annotated[int, typer.Option(min=4, help="Recorded episodes.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; every method runs once in each.")] = 5,
    scratch: Annotated[Path | None, typer.Option(help="Where everything is written.")] = MEMORY if MEMORY.is_dir() else None,
    with_ray: Annotated[bool, typer.Option("--ray", help="Measure two Ray workers against one too.")] = False,
    only_memory: Annotated[int | None, typer.Option(hidden=True)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 when a target is missed.")] = False,
) -> None:
    """Measure what extraction costs beside the model."""
    if only_memory is not None:
        print(extract_made_up(only_memory))  # noqa: T201 - the parent reads it
        return
    conclude(lambda: measure(episodes, steps, rounds, scratch, with_ray), show, Console(), json_file, check=check)


if __name__ == "__main__":
    typer.run(main)
