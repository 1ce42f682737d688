"""What this machine can run: packages, devices, subjects, and the command that provides each missing part."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib import metadata
from typing import Literal, NamedTuple

from harness import subjects
from harness.errors import HarnessError

__all__ = ["Row", "examine"]

EXTRAS = {"jax": "jax", "flax": "jax", "optax": "jax", "tensorflow_datasets": "rlds", "tensorflow": "tfrecord", "h5py": "h5", "av": "lerobot", "pyarrow": "lerobot", "gguf": "real", "onnx": "real", "ray": "ray", "libero": "sim"}
BANNED = ("torchvision", "timm")  # each replaces torch by a multi-gigabyte CUDA build


class Row(NamedTuple):
    """One part of the machine: `ready`, `missing` (with the command that provides it) or `wrong`."""

    part: str
    state: Literal["ready", "missing", "wrong"]
    detail: str
    next: str | None = None


def examine() -> list[Row]:
    """Every part in a fixed order; nothing heavy is imported but torch, to ask for devices."""
    return [_python(), *_libraries(), *_devices(), *map(_subject, subjects.subject_ids())]


def _python() -> Row:
    return Row("python", "ready", f"{platform.python_version()}, {os.cpu_count()} cores")


def _libraries() -> list[Row]:
    rows = [Row(name, "ready", metadata.version(name)) for name in ("torch", "transformers", "numpy", "scikit-learn", "pytest", "syrupy")]
    for module, extra in EXTRAS.items():
        there = importlib.util.find_spec(module) is not None
        rows.append(Row(module, "ready" if there else "missing", f"extra {extra}", None if there else f"pip install -c constraints.txt -e '.[{extra}]'"))
    rows += [Row(module, "wrong", "replaces torch by a CUDA build", f"pip uninstall {module}") for module in BANNED if importlib.util.find_spec(module)]
    return rows


def _devices() -> list[Row]:
    import torch

    if not torch.cuda.is_available():
        return [Row("cuda", "missing", "no CUDA device", "run on a machine with a GPU; items marked gpu are skipped here")]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [Row(f"cuda:{index}", "ready", name) for index, name in enumerate(names)]


def _subject(name: str) -> Row:
    try:
        command = subjects.missing(name)
    except HarnessError as error:
        return Row(name, "wrong", error.what, error.next)
    return Row(name, "missing" if command else "ready", f"marker {subjects.marker(name)}", command)
