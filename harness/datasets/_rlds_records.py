"""Records of a range of episodes as bytes, in the order of the split; of what cannot be read, the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.datasets._rlds_location import is_remote
from harness.datasets._rlds_splits import Range
from harness.datasets._rlds_tensorflow import tensorflow
from harness.errors import DamagedError, MissingError, UsageError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

__all__ = ["Record", "file_format", "records", "shards"]


class Record(NamedTuple):
    """One episode of a split by its absolute number: its bytes, or why there are none."""

    number: int
    data: bytes | None
    reason: str = ""


def shards(builder: tfds.core.DatasetBuilder, parts: Iterable[Range]) -> list[str]:
    """The files that hold these episodes, each once, in order."""
    files = [file.filename for part in parts if part.episodes for file in builder.info.splits[_expression(part)].file_instructions]
    return list(dict.fromkeys(files))


def file_format(builder: tfds.core.DatasetBuilder, parts: Iterable[Range]) -> str:
    """`array_record`, which needs no TensorFlow, where the dataset has it, else `tfrecord`.

    Raises UsageError for another format, DamagedError when none of the files that hold these episodes is on this machine.
    """
    there = {one.value for one in builder.info.available_file_formats()}
    found = next((one for one in ("array_record", "tfrecord") if one in there), None)
    if found is None:
        got, command = ", ".join(sorted(there)) or "no file format", "convert it with TFDS's convert_format"
        raise UsageError("RLDS is not read from this file format", where=builder.data_dir, got=got, expected="array_record or tfrecord", next=command)
    if builder.info.file_format.value != found:
        builder.info.set_file_format(found, override=True, override_if_initialized=True)
    files = [Path(file) for file in shards(builder, parts)]
    if not is_remote(builder.data_dir) and files and not any(file.is_file() for file in files):
        names = sorted(path.name for path in files[0].parent.iterdir() if path.suffix != ".json")
        got, expected = ", ".join(names[:6]) or "no records at all", f"{len(files)} files, such as {files[0].name}"
        raise DamagedError("a dataset's records are not where its description says", where=builder.data_dir, got=got, expected=expected)
    return found


def records(builder: tfds.core.DatasetBuilder, part: Range, file_format: str) -> Iterator[Record]:
    """One Record per episode of `part`; reading begins at its first one. Raises MissingError without the package of the format."""
    if not part.episodes:
        return iter(())
    return _array_records(builder, part) if file_format == "array_record" else _tf_records(builder, part)


def _array_records(builder: tfds.core.DatasetBuilder, part: Range) -> Iterator[Record]:
    import tensorflow_datasets as tfds

    try:
        source = builder.as_data_source(split=_expression(part), deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except ImportError as error:
        next = "pip install 'vla-harness[rlds]' -c constraints.txt"
        raise MissingError(f"array_record files need the {error.name} package", where=builder.data_dir, next=next) from error
    for index in range(part.episodes):
        try:
            data, reason = source[index], "an empty record, as a file cut short has them"
        except (RuntimeError, ValueError, OSError, IndexError) as error:  # array_record's ways of telling damage
            data, reason = b"", f"the record cannot be read: {_first_line(error)}"
        yield Record(part.start + index, data or None, "" if data else reason)


def _tf_records(builder: tfds.core.DatasetBuilder, part: Range) -> Iterator[Record]:
    tf = tensorflow(builder.data_dir)
    number = part.start
    for file in builder.info.splits[_expression(part)].file_instructions:
        first, behind, before = number - file.skip, number + file.take, None
        while number < behind:
            reason = "the file ends before it"
            try:
                for data in tf.data.TFRecordDataset(file.filename).skip(number - first).take(behind - number).as_numpy_iterator():
                    yield Record(number, data or None, "" if data else "an empty record")
                    number += 1
            except tf.errors.OpError as error:  # damage, a file that is not there, a network that is gone
                reason = f"the file cannot be read: {_first_line(error)}"
            # Skipping does not check a record's bytes: only where its length is damaged, or the file cut, is the same place reached again.
            lost = behind if reason in (before, "the file ends before it") else min(number + 1, behind)
            yield from (Record(one, None, reason) for one in range(number, lost))
            number, before = lost, reason


def _expression(part: Range) -> str:
    """The range in TFDS's words."""
    return f"{part.split}[{part.start}:{part.stop}]"


def _first_line(error: BaseException) -> str:
    """An error's own words, without TensorFlow's account of where it was."""
    lines = re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:\w+\].*$", "", str(error), flags=re.DOTALL).splitlines()
    return (lines or [type(error).__name__])[0][:200]
