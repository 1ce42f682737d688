"""What an episode looks like as an RLDS record: its values as numpy and text, its features in the words of TFDS."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from harness.errors import DamagedError, UsageError
from harness.pictures import Encoded, Pictures
from harness.types import Episode, Sample

__all__ = ["Schema", "record"]

MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
STEP_KEYS = {"reward", "discount", "is_terminal"}  # a sample's fields that are keys of the step
DERIVED = {"action", "episode_metadata", "is_first", "is_last", "language_instruction"}  # written from the sample and the episode themselves


@final
class Schema:
    """The features of a first record with steps, and the bytes of every record that agrees with it."""

    def __init__(self, first: Mapping[str, Any], encoding: str) -> None:
        from tensorflow_datasets import features as kinds
        from tensorflow_datasets.core.example_serializer import ExampleSerializer

        steps = {key: _feature(value, encoding) for key, value in first["steps"][0].items()}
        self.features = kinds.FeaturesDict({"steps": kinds.Dataset(steps), "episode_metadata": _feature(first["episode_metadata"], encoding)})
        self._parts = {"step": _kinds(first["steps"][0]), "episode_metadata": _kinds(first["episode_metadata"])}
        self._serializer = ExampleSerializer(self.features.get_serialized_info())

    def serialize(self, values: Mapping[str, Any], where: str) -> bytes:
        """A record's bytes, the same in every process. Raises UsageError when it has other keys, kinds or shapes than the first."""
        self._agrees("episode_metadata", values["episode_metadata"], where)
        for number, step in enumerate(values["steps"]):
            self._agrees("step", step, f"{where}, step {number}")
        example = self._serializer.get_tf_example(self.features.encode_example(values))
        return example.SerializeToString(deterministic=True)  # else protobuf leaves the order of the keys to chance

    def _agrees(self, part: str, values: Mapping[str, Any], where: str) -> None:
        known, got = self._parts[part], _kinds(values)
        for key in sorted(known.keys() | got.keys()):
            if known.get(key) != got.get(key):
                what = f"an episode differs from the first one in {part} key {key!r}"
                raise UsageError(what, where=where, got=got.get(key, "no such key"), expected=known.get(key, "no such key"))


def _kinds(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """What kind of value lies under every key, in dot notation."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _kinds(value, f"{prefix}{key}.")
        elif isinstance(value, bytes):
            found[prefix + key] = "picture of {} x {}".format(*_size(value))
        elif isinstance(value, str):
            found[prefix + key] = "text"
        else:
            found[prefix + key] = f"{np.asarray(value).dtype} {np.asarray(value).shape}"
    return found


def _feature(value: Any, encoding: str) -> Any:
    """The feature that holds a value of this kind: a mapping, a picture's bytes, text, a flag, a number, an array."""
    from tensorflow_datasets import features as kinds

    if isinstance(value, Mapping):
        return kinds.FeaturesDict({key: _feature(inner, encoding) for key, inner in value.items()})
    if isinstance(value, bytes):
        width, height = _size(value)
        return kinds.Image(shape=(height, width, 3), encoding_format=encoding)
    if isinstance(value, str):
        return kinds.Text()
    array = np.asarray(value)
    return kinds.Tensor(shape=array.shape, dtype=array.dtype) if array.shape else kinds.Scalar(dtype=array.dtype)


def record(episode: Episode, encoding: str, quality: int) -> dict[str, Any]:
    """An episode as TFDS takes it: `steps`, a list, and `episode_metadata`. Raises UsageError for what has no place in it."""
    last = len(episode.steps) - 1
    steps = [_step(episode, sample, number, last, encoding, quality) for number, sample in enumerate(episode.steps)]
    metadata = {"episode_id": episode.id, "file_path": "", "natural_language_instruction": episode.instruction, "language_instruction": episode.instruction}
    known = {} if episode.success is None else {"success": np.bool_(episode.success)}
    given = {key: _metadata(value, f"{episode.id}, field {key}") for key, value in episode.fields.items()}
    return {"steps": steps, "episode_metadata": {**metadata, **given, **known}}


def _step(episode: Episode, sample: Sample, number: int, last: int, encoding: str, quality: int) -> dict[str, Any]:
    where = f"{episode.id}, step {number}"
    if sample.action is None:
        raise UsageError("a step without an action cannot be recorded as RLDS", where=where, got="no action", expected="an array (a,)")
    pictures = {_camera(name): _encoded(sample, name, encoding, quality) for name in sample.images}
    state = {} if sample.state is None else {"state": np.asarray(sample.state, np.float32)}
    others = {key: _array(value, f"{where}, field {key}") for key, value in sample.fields.items() if key not in STEP_KEYS | DERIVED}
    done = number == last and episode.success is not False
    return {
        "observation": {**pictures, **state, **others},
        "action": np.asarray(sample.action, np.float32),
        "reward": np.float32(sample.fields.get("reward", number == last and episode.success is True)),
        "discount": np.float32(sample.fields.get("discount", 1.0)),
        "is_first": np.bool_(number == 0),
        "is_last": np.bool_(number == last),
        "is_terminal": np.bool_(sample.fields.get("is_terminal", done)),
        "language_instruction": sample.instruction or episode.instruction,
    }


def _camera(name: str) -> str:
    """openvla's name of a camera's picture in `observation`."""
    return {"primary": "image"}.get(name, f"{name}_image")


def _encoded(sample: Sample, camera: str, encoding: str, quality: int) -> bytes:
    """A picture's file; one that is encoded like this already is copied, so that recording again loses nothing."""
    from PIL import Image

    source = sample.images.sources[camera] if isinstance(sample.images, Pictures) else None
    if isinstance(source, Encoded) and source.data.startswith(MAGIC[encoding]):
        return source.data
    buffer = io.BytesIO()
    options = {"quality": quality} if encoding == "jpeg" else {}
    Image.fromarray(np.asarray(sample.images[camera], np.uint8)).save(buffer, format=encoding, **options)
    return buffer.getvalue()


def _size(picture: bytes) -> tuple[int, int]:
    """Width and height by the picture's header. Raises DamagedError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(picture)) as opened:
            return opened.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # Pillow raises each for some damage
        raise DamagedError("a picture that is to be recorded has no readable header", got=f"{len(picture)} bytes: {error}", expected="JPEG or PNG") from error


def _metadata(value: Any, where: str) -> Any:
    """A field of an episode: mappings stay, numbers, flags and text too, everything else becomes JSON text."""
    if isinstance(value, Mapping):
        return {key: _metadata(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | np.ndarray | np.generic):
        return _array(value, where)
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        expected = "text, numbers, or what JSON holds"
        raise UsageError("a field of an episode cannot be recorded", where=where, got=type(value).__name__, expected=expected) from error


def _array(value: Any, where: str) -> np.ndarray:
    """A number or an array as the only three kinds a record keeps: bool, int64, float32. Raises UsageError for anything else."""
    array = np.asarray(value)
    kind = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float32}.get(array.dtype.kind)
    if kind is None:
        raise UsageError("a field of a step cannot be recorded", where=where, got=f"{type(value).__name__} {array.dtype}", expected="numbers or flags")
    return array.astype(kind)
