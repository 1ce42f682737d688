"""Parameter trees in orbax's format: leaves by path in and out, shapes from the metadata alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.errors import DamagedError, MissingError
from harness.trees import nested

__all__ = ["Shape", "read", "shapes", "write"]

ROOT = "params"
_WRAPPED = "value"  # what flax.nnx puts below every leaf of its own states
_AGAIN = "download the whole folder again"


class Shape(NamedTuple):
    """What the metadata says of a leaf, dtype by numpy's name (`bfloat16` is ml_dtypes')."""

    shape: tuple[int, ...]
    dtype: str


def read(directory: Path) -> dict[str, np.ndarray]:
    """Every leaf below the root key `params` by its path (`PaliGemma/llm/final_norm/scale`), dtypes as stored.

    Where all paths end in `value`, that element is dropped; where only some do, none is.
    Raises MissingError without the folder or the orbax package, DamagedError for what is no whole parameter tree.
    """
    with _sound(directory):
        import jax
        from orbax import checkpoint

        checkpointer = checkpoint.PyTreeCheckpointer()
        tree = _tree(checkpointer, directory)
        # As numpy arrays, so that the sharding and the devices of the run that saved them are not asked for.
        arguments = jax.tree.map(lambda _: checkpoint.RestoreArgs(restore_type=np.ndarray), tree)
        return _named(checkpointer.restore(directory.absolute(), restore_args=arguments), directory)


def shapes(directory: Path) -> dict[str, Shape]:
    """Shape and dtype of every leaf by the paths of `read`, without reading a weight; raises the same."""
    with _sound(directory):
        from orbax import checkpoint

        leaves = _named(_tree(checkpoint.PyTreeCheckpointer(), directory), directory)
    return {path: Shape(tuple(leaf.shape), np.dtype(leaf.dtype).name) for path, leaf in leaves.items()}


def write(directory: Path, leaves: Mapping[str, np.ndarray]) -> None:
    """A pure dict below the root key `params` in a new folder, readable by openpi's own `restore_params`."""
    with _sound(directory, there=False):
        from orbax import checkpoint

        checkpoint.PyTreeCheckpointer().save(directory.absolute(), {ROOT: nested(leaves, "/")})


@contextmanager
def _sound(directory: Path, *, there: bool = True) -> Iterator[None]:
    if there and not directory.is_dir():
        raise MissingError("there is no parameter folder here", where=directory, expected="an orbax folder such as CHECKPOINT/params")
    if there and not (directory / "_METADATA").is_file():
        got = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "an empty folder"
        raise DamagedError("this is no whole orbax folder", where=directory, got=got, expected="_METADATA, manifest.ocdbt, d/", next=_AGAIN)
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # orbax warns of files that only its newest versions write
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(f"an orbax checkpoint needs the {error.name} package", where=directory, next="pip install 'vla-harness[jax]'") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:  # orbax's and tensorstore's ways of saying it
        got = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise DamagedError("orbax cannot read or write this folder", where=directory, got=got, expected="a whole parameter tree", next=_AGAIN) from error
    finally:
        log.setLevel(level)


def _tree(checkpointer: Any, directory: Path) -> Any:
    found = checkpointer.metadata(directory.absolute())
    return getattr(found, "item_metadata", found).tree  # orbax before 0.11 gave the tree itself


def _named(tree: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    if ROOT not in tree:
        raise DamagedError("the tree has another root than openpi's", where=directory, got=", ".join(map(str, tree)), expected=ROOT)
    leaves = dict(_leaves(tree[ROOT], ()))
    if leaves and all(path[-1] == _WRAPPED for path in leaves):
        leaves = {path[:-1]: leaf for path, leaf in leaves.items()}
    return {"/".join(path): leaf for path, leaf in leaves.items()}


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _leaves(child, (*path, str(key)))
    else:
        yield path, node
