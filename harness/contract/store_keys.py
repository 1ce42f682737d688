"""Does everything that can change a feature change its store key?"""

from __future__ import annotations

from dataclasses import fields, replace

from harness.extract import feature_key
from harness.readers import Dataset
from harness.store import Key
from harness.types import Measurement, Point, Runtime, Sample, Subject

__all__ = ["store_keys"]


def store_keys(subject: Subject) -> Measurement:
    """How many parts of the key can change without changing the entry: 0 when no two models or settings share one."""
    dataset = Dataset("probe", "0" * 64, (Sample("a", "open the drawer"),))
    key = feature_key(subject, Runtime(), dataset, Point("lm", "final_norm"), "mean")
    changed = {field.name: _changed(key, field.name) for field in fields(Key)}
    deaf = [name for name, other in changed.items() if other.digest == key.digest]
    return Measurement(len(deaf), detail=f"of {len(changed)} parts: {', '.join(deaf) or 'every one counts'}")


def _changed(key: Key, name: str) -> Key:
    value = getattr(key, name)
    return replace(key, **{name: {**value, "torch": "0"} if name == "versions" else f"{value} changed"})
