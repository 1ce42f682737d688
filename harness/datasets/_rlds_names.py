"""Names of RLDS datasets that TFDS registers, read from its files: importing it to ask takes seconds."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["NAME", "registered"]

NAME = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(/[\w.-]+)?(:[\w.*]+)?")  # name, name/config, name:1.0.0
PACKAGES = ("robotics", "rlds", "d4rl", "rl_unplugged", "robomimic")  # where TFDS has its robots


@lru_cache
def registered() -> frozenset[str]:
    """The names, and those of a few classes beside them; none where TFDS is not installed."""
    found = find_spec("tensorflow_datasets")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    package = Path(found.submodule_search_locations[0])
    names = {path.name for path in (package / "datasets").glob("*") if path.is_dir()}
    for file in (file for folder in PACKAGES for file in (package / folder).rglob("*.py")):
        names |= {_snake(name) for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)}
    return frozenset(names)


def _snake(name: str) -> str:
    """A class's name as TFDS registers it: BcZ is bc_z."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()
