"""Where π0's arrays live: the jax device of a runtime, and what a capture hands to `keep` there."""

from __future__ import annotations

import random

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from harness.errors import MissingError, UsageError
from harness.types import Runtime

__all__ = ["device_of", "float32", "generators", "modes", "pointers"]

MODES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_debug_nans",
    "jax_disable_jit",
    "jax_default_prng_impl",
)


def device_of(runtime: Runtime) -> jax.Device:
    """The jax device of `cpu`, `cuda` or `cuda:N`. Raises MissingError when jax sees no such device, UsageError for another name."""
    kind, _, index = runtime.device.partition(":")
    if kind not in ("cpu", "cuda") or not (index or "0").isdigit():
        raise UsageError("this is no device", got=runtime.device, expected="cpu, cuda or cuda:N")
    try:
        devices = jax.local_devices(backend="gpu" if kind == "cuda" else "cpu")
        return devices[int(index or 0)]
    except (RuntimeError, IndexError) as error:
        got, next = ", ".join(map(str, jax.local_devices())), "pip install 'jax[cuda12]' on a machine with a GPU, or --device cpu"
        raise MissingError(f"jax sees no device {runtime.device!r}", got=got, next=next) from error


def float32(value: Array, rows: int, *, on_host: bool) -> np.ndarray | Array:
    """`value` (rows, ..., d) as float32 (rows, t, d): a read-only numpy view of it on a CPU, else an array on its device."""
    wide = value if value.dtype == jnp.float32 else value.astype(jnp.float32)
    return (np.asarray(wide) if on_host else wide).reshape(rows, -1, value.shape[-1])


def pointers(tree: object) -> list[tuple[object, ...]]:
    """Address, shape and dtype of every array of a tree; shapes alone have no address."""
    leaves = jax.tree.leaves(tree)
    return [(leaf.unsafe_buffer_pointer() if isinstance(leaf, Array) else None, leaf.shape, str(leaf.dtype)) for leaf in leaves]


def generators() -> list[object]:
    """The state of numpy's and Python's global random generators; jax has none."""
    kind, keys, *rest = np.random.get_state()
    return [kind, keys.tolist(), *rest, random.getstate()]


def modes() -> list[tuple[str, object]]:
    """The settings of jax that change numbers."""
    return [(name, getattr(jax.config, name)) for name in MODES]
