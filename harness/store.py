"""Features on disk: safetensors shards with a JSON sidecar, addressed by everything that could have changed them.

An entry is `KEY[:2]/KEY/` with `shard-0000.safetensors …` and `entry.json`. The sidecar is put into place last, so
an entry without one does not exist. Every shard's size and digest are checked on reading; what fails is recomputed.
A shard holds its sample ids too, and the records that gave no row with their reasons. Nothing in it tells when it was made.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

import numpy as np
from blake3 import blake3

from harness.checkpoints import canonical_digest
from harness.entries import Key, StoreWarning, Writer, folder_of, require_rows
from harness.errors import DamagedError, UnknownNameError, UsageError
from harness.shards import Shard, unpacked
from harness.storage import storage
from harness.types import Features

__all__ = ["Key", "Store", "StoreWarning", "Writer"]

SHARD_BYTES = 256 * 2**20


@final
class Store:
    """Content-addressed feature sets below `root`, a path or an fsspec address; safe to share between processes."""

    def __init__(self, root: Path | str) -> None:
        self.root = root
        self.files = storage(root)

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
        require_rows(values, sample_ids, key)
        writer = self.writer(key)
        rows = max(1, SHARD_BYTES // max(1, values[:1].nbytes))
        starts = range(0, max(1, len(values)), rows)
        for number, start in enumerate(starts):
            writer.put(number, values[start : start + rows], sample_ids[start : start + rows])
        writer.finish(len(starts))
        return Features(values, tuple(sample_ids), key.digest)

    def writer(self, key: Key) -> Writer:
        """Writes an entry shard by shard, going on where another process stopped."""
        return Writer(self.files, self.root, key, lambda digest: self._log("written", digest))

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Held by the one process that extracts; `name` covers all feature sets of the same forward passes."""
        return self.files.lock(f"locks/{name}.lock")

    def entries(self) -> list[dict[str, Any]]:
        """The sidecars of all complete entries, oldest first, each with the time of its writing as `created`."""
        found = []
        for name in self._sidecars():
            try:
                found.append({**self._sidecar(name), "created": self.files.changed(name)})
            except DamagedError as error:
                warnings.warn(StoreWarning(f"{error}\n  it is left out here and recomputed when next read"), stacklevel=2)
        return sorted(found, key=lambda entry: entry["created"])

    def events(self) -> list[dict[str, Any]]:
        """What happened to this store in order: `written` and `damaged` events with key and time."""
        if self.files.size("events.jsonl") is None:
            return []
        return [event for line in self.files.read("events.jsonl").decode().splitlines() if (event := _event(line))]

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
        for name in self._sidecars():
            try:
                self._read(name.split("/")[1])
            except DamagedError as error:
                wrong.append(error)
        return wrong

    def _sidecars(self) -> list[str]:
        return [name for name in self.files.names() if name.endswith("/entry.json") and name.count("/") == 2]

    def _read(self, digest: str) -> Features | None:
        name = f"{folder_of(digest)}/entry.json"
        if self.files.size(name) is None:
            return None
        entry = self._sidecar(name)
        if entry["key"] != digest:
            raise DamagedError("a store entry stands under another key", where=f"{self.root}/{name}, field key", got=entry["key"], expected=digest)
        shards = [self._shard(f"{folder_of(digest)}/{shard['name']}", shard) for shard in entry["shards"]]
        values = np.concatenate([shard.values for shard in shards]) if len(shards) != 1 else shards[0].values
        if list(values.shape) != entry["shape"]:
            raise DamagedError("a store entry's shape disagrees", where=f"{self.root}/{name}, field shape", got=list(values.shape), expected=entry["shape"])
        return Features(values, tuple(identity for shard in shards for identity in shard.sample_ids), digest)

    def _shard(self, name: str, told: Mapping[str, Any]) -> Shard:
        """A shard of an entry, checked against what its sidecar says. Raises DamagedError."""
        where = f"{self.root}/{name}"
        size = self.files.size(name)
        if size is None:
            raise DamagedError("a shard of a store entry is missing", where=where, expected=f"{told['bytes']} bytes")
        if size != told["bytes"]:
            raise DamagedError("a shard of a store entry has the wrong size", where=where, got=f"{size} bytes", expected=f"{told['bytes']} bytes")
        data = self.files.read(name)
        if (found := blake3(data).hexdigest()) != told["blake3"]:
            raise DamagedError("a shard of a store entry was altered", where=where, got=f"blake3 {found[:16]}…", expected=f"{told['blake3'][:16]}…")
        return unpacked(data, where)

    def _sidecar(self, name: str) -> dict[str, Any]:
        where = f"{self.root}/{name}"
        try:
            entry = json.loads(self.files.read(name))
            claimed = entry.pop("blake3")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError("a store sidecar is not readable", where=where, got=repr(error), expected="the JSON object this harness wrote") from error
        if claimed != canonical_digest(entry):
            raise DamagedError("a store sidecar was altered", where=f"{where}, field blake3", got=canonical_digest(entry)[:16], expected=str(claimed)[:16])
        return entry

    def _log(self, event: str, digest: str, **details: str) -> None:
        self.files.append("events.jsonl", json.dumps({"event": event, "key": digest, "time": time.time(), "pid": os.getpid(), **details}))


def _event(line: str) -> dict[str, Any] | None:
    """One line of the event log; None for the torn last line of a process that was killed."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    versions = {f"version of {name}": version for name, version in parts["versions"].items()}
    return {**{name: value for name, value in parts.items() if name != "versions"}, **versions}


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (new.get(name), old.get(name)) for name in {*new, *old} if new.get(name) != old.get(name)}


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) > 40 else text
