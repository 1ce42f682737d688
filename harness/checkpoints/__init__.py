"""Integrity before any load: a checkpoint's files are what they claim to be, and one digest says which they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from harness.checkpoints._cache import cache_of, fetch, leavings, listing, locate, verify_links
from harness.checkpoints._digests import canonical_digest, directory_digest, file_digest, published_sha256
from harness.checkpoints._files import verify_archive, verify_config, verify_safetensors
from harness.checkpoints._orbax import orbax_tree, verify_orbax
from harness.errors import DamagedError, MissingError

__all__ = ["canonical_digest", "directory_digest", "file_digest", "locate", "orbax_tree", "published_sha256", "verify", "verify_digests"]


def verify(directory: Path, *, next: str | None = None) -> None:
    """Every weight file of a checkpoint directory is present and whole, by its header alone; nothing is loaded.

    Weights are `.safetensors` and torch's `.pt`, or `.bin` where there are neither, or an orbax tree; a Hugging Face cache
    stands for its snapshot. Raises MissingError for an absent or empty directory, DamagedError for an LFS pointer, a truncated or padded file,
    a web page, a shard that the index names and the directory lacks, an unfinished download, a config.json that is no JSON.
    """
    directory = locate(directory)
    if not directory.is_dir():
        raise MissingError("there is no checkpoint here", where=directory, expected="a directory with config.json and weights", next=next)
    verify_links(directory)
    verify_config(directory / "config.json")
    if (tree := orbax_tree(directory)) is not None:
        return verify_orbax(tree)
    shards = sorted(directory.rglob("*.safetensors"))
    for index in directory.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError("a shard index is not readable", where=index, got=repr(error), expected='JSON with "weight_map": {tensor: file}', next=next) from error
        if lost := sorted(named - {file.name for file in shards}):
            raise DamagedError("shards are missing", where=directory, got=f"{len(lost)} absent: {', '.join(lost[:4])}", expected=f"{len(named)} shards named by {index.name}", next=next)
    archives = sorted(directory.rglob("*.pt"))
    if not shards and not archives and not (archives := sorted(directory.rglob("*.bin"))):
        if (cache := cache_of(directory)) is not None and list(cache.rglob("*.incomplete")):
            got, expected = leavings(cache), "the weights"
            raise DamagedError("a download that never finished", where=directory, got=got, expected=expected, next=fetch(cache))
        got, expected = listing(directory), "*.safetensors, *.pt, *.bin or an orbax tree in params/"
        raise MissingError("the checkpoint directory holds no weights", where=directory, got=got, expected=expected, next=next)
    for file in shards:
        verify_safetensors(file)
    for file in archives:
        verify_archive(file)


def verify_digests(directory: Path, progress: Callable[[int, int, str], None] | None = None) -> int:
    """Reads every file that was published with a sha256 and compares; how many there were. Raises DamagedError for another content.

    `progress` is called with bytes done, bytes in all and the file's name.
    """
    files = {path: digest for path in sorted(locate(directory).rglob("*")) if path.is_file() and (digest := published_sha256(path))}
    done, total = 0, sum(path.stat().st_size for path in files)
    for path, published in files.items():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
                done += len(block)
                if progress is not None:
                    progress(done, total, path.name)
        if digest.hexdigest() != published:
            got, next = f"sha256 {digest.hexdigest()}", f"delete {path.resolve()}, then {fetch(path)}"
            raise DamagedError("a file is not what was published", where=path, got=got, expected=published, next=next)
    return len(files)
