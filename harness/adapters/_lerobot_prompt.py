"""The instruction as token ids: PaliGemma's tokenizer where the checkpoint has one, stand-in words for a tiny vocabulary.

Source: lerobot 7427f318, `policies/pi0/processor_pi0.py:38` (the prompt ends with a line break) and PaliGemma's own prompt format.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from harness.adapters._lerobot_sizes import VOCABULARY
from harness.adapters._weights import read_json
from harness.adapters._words import word_ids
from harness.errors import DamagedError, MissingError, UsageError

__all__ = ["prompt_ids"]

BEGIN, PAD = 2, 0  # of PaliGemma's vocabulary
FILES = ("tokenizer.json", "paligemma_tokenizer.model")


def prompt_ids(instruction: str, folder: Path | None, *, vocabulary: int, most: int) -> list[int]:
    """Ids of a prompt with its begin token and final line break. Raises MissingError without tokenizer, UsageError when it is too long."""
    text = instruction if instruction.endswith("\n") else f"{instruction}\n"
    ids = _tokenised(text, folder, vocabulary)
    if len(ids) > most:
        raise UsageError("the instruction is longer than this model reads", got=f"{len(ids)} tokens", expected=f"at most {most}", next="shorten it")
    if (highest := max(ids)) >= vocabulary:
        raise DamagedError("the tokenizer is not this model's", where=folder, got=f"id {highest}", expected=f"ids below {vocabulary}")
    return ids


def _tokenised(text: str, folder: Path | None, vocabulary: int) -> list[int]:
    if folder is not None and (file := folder / FILES[0]).is_file():
        tokenizer = _tokenizer(file, file.stat().st_mtime_ns)
        begin = tokenizer.token_to_id("<bos>")
        return _begun(tokenizer.encode(text).ids, BEGIN if begin is None else begin)
    if folder is not None and (folder / FILES[1]).is_file():
        return _begun(_sentencepiece(folder / FILES[1]).encode(text), BEGIN)
    if folder is None or vocabulary < VOCABULARY:
        return [BEGIN, *word_ids(text, vocabulary)]
    next = f"copy tokenizer.json of google/paligemma-3b-pt-224 to {folder}"
    raise MissingError("the checkpoint has no tokenizer", where=folder, got=f"a vocabulary of {vocabulary}", expected=" or ".join(FILES), next=next)


@lru_cache(maxsize=2)
def _tokenizer(file: Path, modified: int) -> Tokenizer:
    if "model" not in (parsed := read_json(file)):
        raise DamagedError("tokenizer.json is no tokenizer", where=file, got=", ".join(parsed) or "nothing", expected="a model of words")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _begun(ids: list[int], begin: int) -> list[int]:
    return ids if ids[:1] == [begin] else [begin, *ids]


def _sentencepiece(path: Path):  # noqa: ANN202
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        next = "pip install sentencepiece, or copy tokenizer.json"
        raise MissingError("a SentencePiece model needs its package", where=path, got="not installed", next=next) from error
    return SentencePieceProcessor(model_file=str(path))
