"""What π0 is given: pictures letterboxed to its size, the prompt as PaliGemma's token ids, for π0.5 with the state in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp

from harness.adapters._weights import read_json
from harness.adapters._words import word_ids
from harness.errors import DamagedError, MissingError, UsageError

__all__ = ["Tokenizer", "letterboxed", "prompt_ids", "tokenizer_of"]

BOS = 2
VOCABULARY = 257152  # of the published PaliGemma, whose own tokenizer is needed
BINS = np.linspace(-1, 1, 256 + 1)[:-1]
FILES = ("tokenizer.json", "paligemma_tokenizer.model")


class Tokenizer(Protocol):
    """Ids of a text, without special tokens."""

    def __call__(self, text: str) -> list[int]: ...


def letterboxed(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (h, w, 3) uint8 as (height, width, 3) float32 in [-1, 1]: resized whole, centred between bars of -1.

    Source: openpi shared/image_tools.py, linear with antialiasing, rounded to whole levels. Raises UsageError for anything else.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise UsageError("this is not an RGB picture", got=f"{picture.dtype} {picture.shape}", expected="uint8 (height, width, 3)")
    if picture.shape[:2] != size:
        ratio = max(picture.shape[0] / size[0], picture.shape[1] / size[1])
        inner = (max(1, int(picture.shape[0] / ratio)), max(1, int(picture.shape[1] / ratio)))
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            resized = np.asarray(_resized(picture, inner))
        bars = [(whole - part) for whole, part in zip(size, inner, strict=True)]
        picture = np.pad(resized, [*((bar // 2, bar - bar // 2) for bar in bars), (0, 0)])
    return picture.astype(np.float32) / 255.0 * 2.0 - 1.0


@partial(jax.jit, static_argnums=1)
def _resized(picture: Array, size: tuple[int, int]) -> Array:
    return jnp.round(jax.image.resize(picture.astype(jnp.float32), (*size, 3), "linear")).clip(0, 255).astype(jnp.uint8)


def prompt_ids(instruction: str, state: np.ndarray | None, tokenizer: Tokenizer) -> list[int]:
    """Ids of the prompt: begin of sequence, instruction, newline; with a normalised state also its numbers, in 256 levels.

    Source: openpi models/tokenizer.py, `PaligemmaTokenizer`.
    """
    text = instruction.strip().replace("_", " ").replace("\n", " ")
    if state is None:
        return [BOS, *tokenizer(text), *tokenizer("\n")]
    levels = " ".join(map(str, np.digitize(state, bins=BINS) - 1))
    return [BOS, *tokenizer(f"Task: {text}, State: {levels};\nAction: ")]


def tokenizer_of(folders: Sequence[Path], vocabulary: int) -> Tokenizer:
    """PaliGemma's tokenizer in one of the folders; stand-in words for tiny vocabularies, or where there is no checkpoint at all.

    Raises MissingError for a published vocabulary without its tokenizer, or without the package that reads it; DamagedError.
    """
    for folder in folders:
        for name, read in zip(FILES, (_fast, _sentencepiece), strict=True):
            if (folder / name).is_file():
                return read(folder / name, vocabulary)
    if folders and vocabulary >= VOCABULARY:
        next = f"copy gs://big_vision/paligemma_tokenizer.model, or tokenizer.json of google/paligemma-3b-pt-224, to {folders[0]}"
        raise MissingError("the checkpoint has no tokenizer of its language", where=folders[0], expected=" or ".join(FILES), next=next)
    return lambda text: word_ids(text, vocabulary)


def _fast(path: Path, vocabulary: int) -> Tokenizer:
    from tokenizers import Tokenizer as Fast

    if "model" not in (parsed := read_json(path)):
        raise DamagedError("tokenizer.json holds no tokenizer", where=path, got=", ".join(parsed), expected="a model of words")
    fast = Fast.from_file(str(path))
    return lambda text: _known(fast.encode(text, add_special_tokens=False).ids, vocabulary, path)


def _sentencepiece(path: Path, vocabulary: int) -> Tokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        next = "pip install sentencepiece, or put tokenizer.json beside it"
        raise MissingError("a sentencepiece model needs its package", where=path, next=next) from error
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise DamagedError("the sentencepiece model is not readable", where=path, got=error) from error
    return lambda text: _known(list(pieces.encode(text)), vocabulary, path)


def _known(ids: list[int], vocabulary: int, path: Path) -> list[int]:
    if unknown := [token for token in ids if not 0 <= token < vocabulary]:
        raise DamagedError("the tokenizer is another model's", where=path, got=f"token {unknown[0]}", expected=f"ids below {vocabulary}")
    return ids
