"""The layout of document 000 as a sink: a folder for every episode and step, a file for every layer and stream, and what they are."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from filelock import FileLock

from harness.checkpoints import canonical_digest
from harness.errors import DamagedError, UsageError
from harness.extract import _plots as plots
from harness.extract._job import Done, Sink
from harness.indices import Indices
from harness.pipeline import Block, Keep, host
from harness.readers import Stream
from harness.storage import storage, unfinished
from harness.trees import plain
from harness.types import Array, Batch, Broken, Point, Sample

__all__ = ["StepSink", "step_points"]

META, STATE = "step_metadata.json", ".unfinished"
WRITERS = 2  # steps of a shard that are written at a time: making small files is most of their cost
STREAMS = {"input": "residual_input", "output": "residual_output", "embedding": "embedding_embedding_output"}


def step_points(stack: str, layers: Sequence[int], streams: Sequence[str], *, embedding: bool) -> tuple[Point, ...]:
    """The points of document 000: each residual stream of each layer, and before them what enters layer 0."""
    first = (Point(stack, "embedding"),) if embedding else ()
    return (*first, *(Point(stack, stream, layer) for layer in layers for stream in ("input", "output") if stream in streams))


@final
@dataclass(frozen=True)
class StepSink(Sink):
    """Tensors (positions, width) in the model's dtype; numpy has no bfloat16, so `.npy` then holds float32, as the metadata says.

    A position means the same token in every stream: it counts the valid tokens of the stack's sequence, pictures included, while
    the original script resolves it against each captured tensor, where the embedding's has no pictures. `settings` tells this
    extraction from another into the same folder; `told` goes into every step's metadata.
    """

    points: tuple[Point, ...]
    positions: Indices
    folder: Path
    format: Literal["pt", "npy"]
    dtype: str
    settings: Mapping[str, Any]
    told: Mapping[str, Any]
    visualize: bool = False

    @property
    def destination(self) -> str:
        return str(self.folder)

    @property
    def identity(self) -> str:
        """16 hex digits that name this extraction in every step's metadata."""
        return canonical_digest(self.settings)[:16]

    def lock(self) -> AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.with_name(f".{self.folder.name}.lock"))

    def keep(self, batch: Batch) -> Keep:
        """Of every row the asked positions among its valid tokens; where all are asked for, valid tokens first."""
        masks = {stack: host(batch.tokens[stack].mask) for stack in {point.stack for point in self.points}}
        places = {stack: self._places(mask) for stack, mask in masks.items()}
        return lambda point, values: _taken(values, places[point.stack])

    def _places(self, mask: np.ndarray) -> np.ndarray:
        """Which tokens (n, p) of each row are kept; behind those of a shorter row stands its first token, which `put` cuts off."""
        order = np.argsort(~mask, axis=1, kind="stable")
        kept = [self._kept(count) for count in mask.sum(1).tolist()]
        most = max(map(len, kept))
        return np.stack([row[[*places, *[0] * (most - len(places))]] for row, places in zip(order, kept, strict=True)])

    def _kept(self, count: int) -> tuple[int, ...]:
        """The asked positions of a sequence of so many valid tokens; none when it is too short for one of them, which `put` refuses."""
        try:
            return self.positions.of(count)
        except UsageError:
            return ()

    @cached_property
    def _unfinished(self) -> bool:
        """Whether an earlier run to this folder did not end. Raises UsageError when that was another extraction."""
        names = [path.name for path in (self.folder / STATE).glob("*.json")]
        if others := [name for name in names if not name.startswith(f"{self.identity}-")]:
            raise self._foreign(self.folder / STATE / others[0], others[0].partition("-")[0])
        return bool(names)

    def found(self, stream: Stream, number: int) -> Done | None:
        state, began = self.folder / self._state(number), self._unfinished
        if state.exists():
            record = json.loads(state.read_text(encoding="utf-8"))
            return Done(number, record["samples"], tuple(Broken(*broken) for broken in record["broken"]))
        if began or next(self.folder.glob(f"*/*/{META}"), None) is None:  # nothing that is worth reading the dataset for
            return None
        records = list(stream.shard(number))
        samples = [record for record in records if isinstance(record, Sample)]
        whole = [self._mine(self._step(sample, index)) for sample, index in zip(samples, _indices(samples), strict=True)]
        return Done(number, len(records), ()) if records and len(samples) == len(records) and all(whole) else None

    def _mine(self, step: Path) -> bool:
        """Whether a step is there. Raises UsageError when it belongs to another extraction."""
        if not (step / META).exists():
            return False
        try:
            other = json.loads((step / META).read_text(encoding="utf-8")).get("extraction_id")
        except (ValueError, AttributeError) as error:
            raise DamagedError("a step's metadata is not readable", where=step / META, got=error, next=f"remove {step} and run again") from error
        if other != self.identity:
            raise self._foreign(step, other)
        return True

    def _foreign(self, where: Path, other: object) -> UsageError:
        what, next = "the output folder holds another extraction", "choose another --output_dir, or remove that folder"
        return UsageError(what, where=where, got=f"extraction {other}", expected=f"extraction {self.identity}", next=next)

    def _state(self, number: int) -> str:
        """Where below the folder it is noted that a shard is written."""
        return f"{STATE}/{self.identity}-{number:06d}.json"

    def put(self, block: Block) -> Done:
        broken, steps = list(block.broken), []
        for row, (sample, index) in enumerate(zip(block.samples, _indices(block.samples), strict=True)):
            count = int(block.lengths[self.points[0].stack][row])
            try:
                kept = self.positions.of(count)
            except UsageError as error:
                broken.append(Broken(sample.id, f"{error.what}: its sequence has {count} tokens", sample.episode))
                continue
            rows = {point: block.rows[point][row][: len(kept)] for point in self.points}
            steps.append((sample, index, rows, kept))
        with ThreadPoolExecutor(WRITERS, "step") as pool:
            list(pool.map(lambda step: self._write(*step), steps))
        done = Done(block.shard, len(block.sample_ids) + len(block.broken), tuple(broken))
        record = {"samples": done.samples, "broken": list(map(astuple, broken))}
        storage(self.folder).write(self._state(block.shard), json.dumps(record).encode())
        return done

    def finish(self, stream: Stream, done: Sequence[Done]) -> Mapping[str, str]:
        if self.visualize:
            steps = sorted(path.parent for path in self.folder.glob(f"*/*/{META}"))
            chosen = steps[:: -(-len(steps) // plots.MOST)] if steps else []
            rows = {name: [self._read(step, name) for step in chosen] for name in map(_name, self.points)}
            storage(self.folder).write("pca_run_visualization.png", plots.run_plot(rows, [step.parent.name for step in chosen]))
        for left in [self.folder / STATE, *self.folder.glob(".*.tmp"), *self.folder.glob("*/.step_*.tmp")]:  # of this run and of killed ones
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        return {"steps": str(self.folder)}

    def _step(self, sample: Sample, index: int) -> Path:
        return self.folder / re.sub(r"[^\w.-]+", "_", sample.episode or sample.id) / f"step_{index:04d}"

    def _write(self, sample: Sample, index: int, rows: Mapping[Point, np.ndarray], kept: Sequence[int]) -> None:
        """All files of one step, in a folder that is renamed into place."""
        step = self._step(sample, index)
        temporary = step.with_name(unfinished(step.name))
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for point, values in rows.items():
                (temporary / f"layer_{_name(point)}.{self.format}").write_bytes(_encoded(values, self.format, self.dtype))
            meta = {
                "episode_id": sample.episode or sample.id,
                "step_index": index,
                "original_instruction": sample.instruction,
                **self.told,
                "positions_extracted": "all" if self.positions.asked is None else list(self.positions.asked),
                "embedding_shapes": {f"L_{_name(point)}": list(values.shape) for point, values in rows.items()},
                "action_from_dataset": plain(sample.fields.get("action", sample.action)),
                "sample_id": sample.id,
                "positions_in_sequence": list(kept),
                "extraction_id": self.identity,
            }
            (temporary / META).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if self.visualize:
                (temporary / "pca_step_visualization.png").write_bytes(plots.step_plot({_name(point): values for point, values in rows.items()}, kept))
            shutil.rmtree(step, ignore_errors=True)
            temporary.replace(step)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _read(self, step: Path, name: str) -> np.ndarray:
        """The mean over positions of one file of a step."""
        path = step / f"layer_{name}.{self.format}"
        if self.format == "npy":
            return np.load(path).mean(0)
        import torch

        return torch.load(path, weights_only=True).float().mean(0).numpy()


def _name(point: Point) -> str:
    """What stands in file names behind `layer_`: the layer and the stream as the document spells them."""
    return f"{'L0' if point.stream == 'embedding' else point.layer}_{STREAMS[point.stream]}"


def _indices(samples: Sequence[Sample]) -> list[int]:
    """The number of each step within its episode: the dataset's own, else the count so far."""
    seen: dict[str, int] = {}
    found = []
    for sample in samples:
        seen[sample.episode] = seen.get(sample.episode, -1) + 1
        found.append(seen[sample.episode] if sample.step is None else sample.step)
    return found


def _taken(values: Array, places: np.ndarray) -> Array:
    if type(values).__module__.startswith("torch"):
        import torch

        index = torch.from_numpy(places).to(values.device)
        return torch.take_along_dim(values, index[:, :, None], dim=1)
    return np.take_along_axis(np.asarray(values), places[:, :, None], axis=1)


def _encoded(values: np.ndarray, format: str, dtype: str) -> bytes:
    buffer = io.BytesIO()
    if format == "npy":
        np.save(buffer, values.astype(np.float16 if dtype == "float16" else np.float32))
    else:
        import torch

        torch.save(torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype)), buffer)
    return buffer.getvalue()
