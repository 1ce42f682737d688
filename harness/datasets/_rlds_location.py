"""From a folder, a gs:// path or a name that TFDS registers to an opened TFDS dataset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from harness.datasets._rlds_names import NAME, registered
from harness.datasets._rlds_tensorflow import tensorflow
from harness.errors import DamagedError, MissingError, UsageError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

__all__ = ["FILES", "is_remote", "opened", "recognised"]

FILES = ("dataset_info.json", "features.json")
LOCAL = "--tfds_data_dir DIRECTORY, or the path of a local copy"
LOOK = 100  # entries of a folder that are looked at; a folder of pictures has no datasets in it


def is_remote(source: object) -> bool:
    """Whether a source is an address in a bucket."""
    return str(source).startswith("gs://")


def recognised(source: Path | str) -> bool:
    """Whether a folder holds a TFDS dataset, itself or up to two levels below, or a text is a bucket's address or a known name."""
    if isinstance(source, Path):
        return source.is_dir() and next(_folders(source), None) is not None
    if is_remote(source):
        return True
    match = NAME.fullmatch(source)
    return match is not None and ((_data_dir(None) / match["name"]).is_dir() or match["name"] in registered())


def opened(source: Path | str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The dataset, its headers read. Raises MissingError, DamagedError, UsageError."""
    tfds = _tfds(source)
    if is_remote(source):
        return _remote(tfds, str(source))
    if isinstance(source, Path) or Path(source).exists():
        if not Path(source).exists():
            raise MissingError("there is no dataset here", where=source, expected="a folder")
        return _local(tfds, _only(Path(source)))
    if (match := NAME.fullmatch(source)) is None:
        raise MissingError("there is no dataset here", where=source, expected="a folder, a gs:// path, or the name of a TFDS dataset")
    prepared = _data_dir(data_dir) / source.replace(":", "/")
    if prepared.is_dir():
        return _local(tfds, _newest(prepared))
    got = f"no folder {prepared}"
    if match["name"] not in registered():
        raise MissingError("there is no dataset of this name", where=source, got=f"{got}, and no dataset that TFDS registers", next=LOCAL)
    return _registered_dataset(tfds, source, data_dir, got)


def _folders(folder: Path) -> Iterator[Path]:
    """Folders that are TFDS datasets: this one, or those one or two levels below it."""
    if (folder / FILES[0]).is_file():
        yield folder
        return
    for child in _children(folder):
        found = [child] if (child / FILES[0]).is_file() else [grandchild for grandchild in _children(child) if (grandchild / FILES[0]).is_file()]
        yield from found


def _children(folder: Path) -> list[Path]:
    """Sorted folders among the first entries of a folder; hidden ones are unfinished recordings."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in islice(entries, LOOK) if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def _only(folder: Path) -> Path:
    """The one dataset in a folder. Raises DamagedError, UsageError when there are several."""
    found = list(_folders(folder))
    if not found:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ["a file"]
        got = ", ".join(names[:8]) or "an empty folder"
        raise DamagedError("this is no TFDS dataset", where=folder, got=got, expected=f"a folder with {' and '.join(FILES)}")
    if len(found) > 1:
        raise UsageError("several datasets lie here", where=folder, got=f"{len(found)} datasets", expected="one", next=f"choose one, such as {found[-1]}")
    return found[0]


def _newest(folder: Path) -> Path:
    """The newest version of a prepared dataset, as TFDS itself would choose. Raises as `_only` does where there are several configurations."""
    versions = [path for path in _children(folder) if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and (path / FILES[0]).is_file()]
    return max(versions, key=lambda path: tuple(map(int, path.name.split(".")))) if versions else _only(folder)


def _local(tfds: ModuleType, folder: Path) -> tfds.core.DatasetBuilder:
    from google.protobuf.json_format import ParseError

    if lacking := [name for name in FILES if not (folder / name).is_file()]:
        raise DamagedError("a TFDS dataset lacks its description", where=folder, got=f"no {', '.join(lacking)}", expected=" and ".join(FILES))
    try:
        return tfds.builder_from_directory(folder)
    except (ParseError, ValueError, KeyError, AttributeError, TypeError, ImportError, AssertionError) as error:  # TFDS's ways of not understanding a file
        expected = f"{' and '.join(FILES)} as TFDS writes them"
        raise DamagedError("TFDS cannot read a dataset's description", where=folder, got=_first_line(error), expected=expected) from error


def _remote(tfds: ModuleType, address: str) -> tfds.core.DatasetBuilder:
    tf = tensorflow(address)
    try:
        return tfds.builder_from_directory(address)
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        raise MissingError("a bucket cannot be read", where=address, got=_first_line(error), expected="a dataset's folder, name/version", next=LOCAL) from error


def _registered_dataset(tfds: ModuleType, name: str, data_dir: str | None, got: str) -> tfds.core.DatasetBuilder:
    """A dataset that TFDS knows by name, read from the bucket where it lies. Raises MissingError."""
    tf = tensorflow(name)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.info.splits and hasattr(builder, "get_ds_builder"):
            builder = builder.get_ds_builder()
    except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
        got = f"{got}; {_first_line(error)}"
        raise MissingError("TFDS knows this dataset, but it is not here and cannot be reached", where=name, got=got, next=LOCAL) from error
    if not builder.info.splits:
        raise MissingError("TFDS knows this dataset, but nobody has prepared it here", where=name, got=got, next=f"tfds build {name}, or {LOCAL}")
    return builder


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _tfds(source: object) -> ModuleType:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        next = "pip install 'vla-harness[rlds]' -c constraints.txt"
        raise MissingError(f"reading RLDS needs the {error.name} package", where=source, next=next) from error
    return tfds


def _data_dir(given: str | None) -> Path:
    """Where prepared datasets lie: as given, or where TFDS puts them."""
    return Path(given or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()
