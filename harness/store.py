"""Features on disk: safetensors shards with a JSON sidecar, addressed by everything that could have changed them.

An entry is `KEY[:2]/KEY/` with `shard-0000.safetensors …` and `entry.json`. The sidecar is renamed into place last, so
an entry without one does not exist. Every shard's size and digest are checked on reading; what fails is recomputed.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from filelock import FileLock

from harness.checkpoints import canonical_digest, file_digest
from harness.errors import DamagedError, UnknownNameError, UsageError
from harness.types import Features

__all__ = ["Key", "Store", "StoreWarning"]

SHARD_BYTES = 256 * 2**20


class StoreWarning(UserWarning):
    """An entry was unusable and is being recomputed."""


@dataclass(frozen=True)
class Key:
    """Everything that determines a feature set. Two sets with equal keys are the same numbers on the same device class."""

    subject: str
    weights: str
    adapter: str
    capture: str
    dataset: str
    samples: str
    point: str
    pooling: str
    dtype: str
    attention: str
    device_class: str
    versions: Mapping[str, str]
    fault: str | None = None

    @property
    def digest(self) -> str:
        """32 hex digits that name the entry."""
        return canonical_digest(asdict(self))[:32]


@final
class Store:
    """Content-addressed feature sets below `root`, safe to share between processes on one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, key: Key) -> Features | None:
        """The entry of `key`, or None when there is none; a damaged one gives a StoreWarning and None, to be written anew."""
        try:
            return self._read(key.digest)
        except DamagedError as error:
            warnings.warn(StoreWarning(f"{error}\n  it is recomputed now"), stacklevel=2)
            self._log("damaged", key.digest, reason=error.what)
            return None

    def write(self, key: Key, values: np.ndarray, sample_ids: Sequence[str]) -> Features:
        """Stores rows (n, d) float32 of `sample_ids` atomically and returns them as features. Raises UsageError."""
        from safetensors.numpy import save_file

        if values.ndim != 2 or len(values) != len(sample_ids) or values.dtype != np.float32:
            raise UsageError("features are float32 rows, one per sample", got=f"{values.dtype} {values.shape} for {len(sample_ids)} samples")
        if len(set(sample_ids)) != len(sample_ids):
            raise UsageError("sample ids repeat", got=f"{len(sample_ids) - len(set(sample_ids))} duplicates", where=key.subject)
        folder = self._folder(key.digest)
        folder.mkdir(parents=True, exist_ok=True)
        rows = max(1, SHARD_BYTES // max(1, values[:1].nbytes))
        shards = []
        for number, start in enumerate(range(0, max(1, len(values)), rows)):
            name = f"shard-{number:04d}.safetensors"
            with self._atomic(folder / name) as temporary:
                save_file({"features": np.ascontiguousarray(values[start : start + rows])}, temporary)
                shards.append({"name": name, "bytes": temporary.stat().st_size, "blake3": file_digest(temporary)})
        entry = {
            "key": key.digest,
            "parts": asdict(key),
            "shape": list(values.shape),
            "dtype": "float32",
            "shards": shards,
            "sample_ids": list(sample_ids),
            "created": time.time(),
        }
        entry["blake3"] = canonical_digest(entry)
        with self._atomic(folder / "entry.json") as temporary:
            temporary.write_text(json.dumps(entry, indent=1))
        self._log("written", key.digest)
        return Features(values, tuple(sample_ids), key.digest)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by the one process that extracts; `name` covers all feature sets of the same forward passes."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock"):
            yield

    def entries(self) -> list[dict[str, Any]]:
        """The sidecars of all complete entries, oldest first."""
        found = []
        for path in self.root.glob("??/*/entry.json"):
            try:
                found.append(self._sidecar(path))
            except DamagedError as error:
                warnings.warn(StoreWarning(f"{error}\n  it is left out here and recomputed when next read"), stacklevel=2)
        return sorted(found, key=lambda entry: entry["created"])

    def events(self) -> list[dict[str, Any]]:
        """What happened to this store in order: `written` and `damaged` events with key and time."""
        path = self.root / "events.jsonl"
        return [event for line in path.read_text().splitlines() if (event := _event(line))] if path.exists() else []

    def find(self, prefix: str) -> dict[str, Any]:
        """The one sidecar whose key starts with `prefix`. Raises UnknownNameError, UsageError when it is ambiguous."""
        entries = {entry["key"]: entry for entry in self.entries()}
        matches = [key for key in entries if key.startswith(prefix)]
        if not matches:
            raise UnknownNameError("store key", prefix, entries, where=self.root, next="harness store list")
        if len(matches) > 1:
            raise UsageError(f"{prefix!r} is the start of {len(matches)} keys", where=self.root, expected="more digits", next="harness store list")
        return entries[matches[0]]

    def explain(self, prefix: str) -> str:
        """Why entry `prefix` was computed: what in its key differs from the nearest older entry, or what was damaged."""
        entry = self.find(prefix)
        lines = [f"{entry['key']}  {entry['parts']['subject']}  {entry['parts']['point']}  {entry['parts']['pooling']}  {tuple(entry['shape'])}"]
        damaged = [event for event in self.events() if event["event"] == "damaged" and event["key"] == entry["key"] and event["time"] <= entry["created"]]
        if damaged:
            return "\n".join([*lines, f"recomputed because its files were unusable: {damaged[-1]['reason']}"])
        parts = _flat(entry["parts"])
        older = [other for other in self.entries() if other["created"] < entry["created"]]
        differences = [(_difference(parts, _flat(other["parts"])), other) for other in older]
        comparable = [(changed, other) for changed, other in differences if not {"subject", "point"} & changed.keys()]
        if not comparable:
            return "\n".join([*lines, "computed for the first time: no older entry has this subject and point"])
        changed, nearest = min(comparable, key=lambda pair: (len(pair[0]), -pair[1]["created"]))
        lines.append(f"recomputed although {nearest['key'][:12]} existed, because of the key these parts changed:")
        return "\n".join(lines + [f"  {name:<22} {_short(old)} -> {_short(new)}" for name, (new, old) in sorted(changed.items())])

    def verify(self) -> list[DamagedError]:
        """Reads every entry; returns what is wrong with each damaged one."""
        wrong = []
        for path in sorted(self.root.glob("??/*/entry.json")):
            try:
                self._read(path.parent.name)
            except DamagedError as error:
                wrong.append(error)
        return wrong

    def _read(self, digest: str) -> Features | None:
        from safetensors.numpy import load_file

        path = self._folder(digest) / "entry.json"
        if not path.exists():
            return None
        entry = self._sidecar(path)
        if entry["key"] != digest:
            raise DamagedError("a store entry stands under another key", where=f"{path}, field key", got=entry["key"], expected=digest)
        blocks = []
        for shard in entry["shards"]:
            file = path.parent / shard["name"]
            if not file.exists():
                raise DamagedError("a shard of a store entry is missing", where=file, expected=f"{shard['bytes']} bytes")
            if (size := file.stat().st_size) != shard["bytes"]:
                raise DamagedError("a shard of a store entry has the wrong size", where=file, got=f"{size} bytes", expected=f"{shard['bytes']} bytes")
            if (found := file_digest(file)) != shard["blake3"]:
                raise DamagedError("a shard of a store entry was altered", where=file, got=f"blake3 {found[:16]}…", expected=f"{shard['blake3'][:16]}…")
            blocks.append(load_file(file)["features"])
        values = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        if list(values.shape) != entry["shape"]:
            raise DamagedError("a store entry's shape disagrees", where=f"{path}, field shape", got=list(values.shape), expected=entry["shape"])
        return Features(values, tuple(entry["sample_ids"]), digest)

    def _sidecar(self, path: Path) -> dict[str, Any]:
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            claimed = entry.pop("blake3")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError("a store sidecar is not readable", where=path, got=repr(error), expected="the JSON object this harness wrote") from error
        if claimed != canonical_digest(entry):
            raise DamagedError("a store sidecar was altered", where=f"{path}, field blake3", got=canonical_digest(entry)[:16], expected=str(claimed)[:16])
        return entry

    def _folder(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    @contextmanager
    def _atomic(self, path: Path) -> Iterator[Path]:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _log(self, event: str, digest: str, **details: str) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "key": digest, "time": time.time(), "pid": os.getpid(), **details})
        with (self.root / "events.jsonl").open("a") as file:  # one short append is atomic on POSIX
            file.write(line + "\n")


def _event(line: str) -> dict[str, Any] | None:
    """One line of the event log; None for the torn last line of a process that was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    versions = {f"version of {name}": version for name, version in parts["versions"].items()}
    return {**{name: value for name, value in parts.items() if name != "versions"}, **versions}


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (new.get(name), old.get(name)) for name in {*new, *old} if new.get(name) != old.get(name)}


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) > 40 else text
