"""Measurements that were made before under the very same conditions, so that a second run need not repeat them.

A measurement is kept under the digest of everything it depends on; a file whose content does not match its own digest is
ignored with a warning and measured again.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import final

from harness.checkpoints import canonical_digest
from harness.store import StoreWarning
from harness.types import Measurement

__all__ = ["Memo"]


@final
class Memo:
    """Measurements below `root`, one JSON file each, safe to share between processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def recall(self, parts: Mapping[str, object]) -> Measurement | None:
        """The measurement kept under these conditions, its detail saying when it was made; None when there is none."""
        path = self._path(parts)
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept.pop("blake3") != canonical_digest(kept):
                raise ValueError("its digest does not match")
            found = Measurement(**kept["measurement"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(StoreWarning(f"a kept measurement is not usable and is made again\n  where    {path}\n  got      {error!r}"), stacklevel=2)
            return None
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(kept["created"]))
        return replace(found, detail=f"{found.detail} (kept from {when})".strip())

    def keep(self, parts: Mapping[str, object], measurement: Measurement) -> None:
        """Keeps a measurement made under these conditions; atomic."""
        path = self._path(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"parts": parts, "measurement": asdict(measurement), "created": time.time()}
        kept = json.loads(json.dumps(kept, default=str))
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**kept, "blake3": canonical_digest(kept)}, indent=1), encoding="utf-8")
        temporary.replace(path)

    def _path(self, parts: Mapping[str, object]) -> Path:
        digest = canonical_digest(parts)[:32]
        return self.root / digest[:2] / f"{digest}.json"
