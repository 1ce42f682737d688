"""A small dataset of episodes made in memory, and extractions of it, for tests here and in their child processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness import subjects
from harness.datasets import Reader
from harness.engines.local import local
from harness.errors import DamagedError
from harness.extract import Job, StepSink, feature_sink, run, step_points
from harness.indices import Indices
from harness.pictures import Pictures
from harness.readers import Selection, Stream
from harness.types import Broken, Runtime, Sample

__all__ = ["ROOT", "Episodes", "extracted", "interrupted", "job", "stream", "tree"]

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("lift", "the", "red", "mug", "and", "put", "it", "down", "slowly")


class Episodes(Reader):
    """`count` episodes of three to six steps; `wrong` says by sample id what is amiss: broken, blank, corrupt or noisy."""

    shard = 2

    def __init__(self, count: int = 8, wrong: Mapping[str, str] = {}, *, pause: float = 0.0) -> None:
        self.count, self.wrong, self.pause = count, wrong, pause

    def __len__(self) -> int:
        return self.count

    def read(self, start: int, stop: int) -> Iterator[Sample | Broken]:
        for episode in range(start, min(stop, self.count)):
            rng = np.random.default_rng(episode)
            time.sleep(self.pause)
            for step in range(3 + episode % 4):
                identity, wrong = f"e{episode}/{step}", self.wrong.get(f"e{episode}/{step}")
                picture, state = rng.integers(0, 256, (12, 12, 3), np.uint8), rng.normal(size=7).astype(np.float32)
                task = "" if wrong == "blank" else " ".join(WORDS[: 2 + (episode + 3 * step) % 7])
                if wrong == "broken":
                    yield Broken(identity, "the record is cut short", f"e{episode}")
                    continue
                source = partial(_corrupt, identity) if wrong == "corrupt" else partial(np.array, picture)
                fields = {"action": {"move": [0.5, step], "grip": np.float32(1)}}
                yield Sample(identity, task, Pictures({"primary": source}), state, None, task, f"e{episode}", step, fields)

    def identity(self) -> object:
        return [self.count, dict(self.wrong)]

    def keys(self) -> dict[str, str]:
        return {}


def _corrupt(identity: str) -> np.ndarray:
    raise DamagedError("a picture cannot be decoded", where=identity)


def stream(reader: Reader, **selection: Any) -> Stream:
    """The chosen part of a reader."""
    return Stream("episodes", f"digest {reader.identity()}", reader, Selection(**selection))


def job(subject: str, source: Stream, folder: Path, *, layout: str = "store", points: tuple[str, ...] = ("lm.-1.output", "lm.embedding"), **options: Any) -> tuple[Job, Any]:
    """A job and its loaded adapter; `options` go to the sink."""
    from harness.types import Point

    os.chdir(ROOT)
    adapter = subjects.load(subjects.resolve(subject), Runtime())
    if layout == "store":
        sink = feature_sink(adapter, source, [Point.parse(point) for point in points], root=str(folder), **options)
    else:
        given = {"positions": Indices.parse("-1", "position"), "format": "pt", "dtype": "float32", "settings": {"a": 1}, "told": {"model": subject}, **options}
        chosen = tuple(map(adapter.resolve, step_points("lm", [0, 2], ["input", "output"], embedding=True)))
        sink = StepSink(points=chosen, folder=folder, **given)
    return Job(adapter.subject, adapter.runtime, source, sink, batch_size=4), adapter


def extracted(subject: str, source: Stream, folder: Path, *, max_failures: int = 0, **options: Any) -> Any:
    """The summary of a whole extraction."""
    made, adapter = job(subject, source, folder, **options)
    return run(made, partial(local, adapter=adapter), max_failures=max_failures)


def interrupted(folder: Path, layouts: Sequence[str], moments: Sequence[int]) -> None:
    """For each layout an extraction to `folder/NUMBER/killed` that is killed when so many files are there, finished or not, and a copy,
    `resumed`, that a second run finishes. Runs in a process of its own: its children begin with everything imported and no thread.
    """
    import torch

    torch.set_num_threads(1)
    job("toy_lm:mock", stream(Episodes()), folder)  # imports all that the children need
    for number, (layout, files) in enumerate(zip(layouts, moments, strict=True)):
        killed, resumed = folder / f"{number}/killed", folder / f"{number}/resumed"
        _child(killed, layout, files)
        if killed.exists():
            shutil.copytree(killed, resumed)
        _child(resumed, layout, None)


def _child(folder: Path, layout: str, files: int | None) -> None:
    """An extraction in a fork, killed when so many files are there, or waited for."""
    child = os.fork()
    if child == 0:
        made, adapter = job("toy_lm:mock", stream(Episodes(pause=0.01)), folder, layout=layout)
        run(made, partial(local, adapter=adapter))
        os._exit(0)
    while files is not None and _count(folder) < files and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    if files is not None:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if status not in (0, signal.SIGKILL) or (files is None and status):
        raise SystemExit(f"an extraction ended with status {status}")


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))  # a folder that is renamed meanwhile is passed over


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of an output by name, but the store's log and locks."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name != "events.jsonl" and path.suffix != ".lock"}
