"""Hugging Face caches: the snapshot that a cache stands for, unfinished downloads, links to nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.errors import DamagedError, MissingError

__all__ = ["cache_of", "fetch", "leavings", "listing", "locate", "verify_links"]

CACHED = "models--"  # how a Hugging Face cache names the folder of a repository


def locate(directory: Path) -> Path:
    """The folder that holds the files: of a Hugging Face cache (`models--ORG--NAME`) its one whole snapshot, else `directory`.

    The snapshot that `refs/main` names goes first. Raises MissingError for a cache without any file, DamagedError for an
    unfinished download and for several snapshots of which none is main.
    """
    if not directory.name.startswith(CACHED) or not directory.is_dir():
        return directory
    snapshots = sorted(path for path in directory.glob("snapshots/*") if path.is_dir())
    main = directory / "refs/main"
    named = directory / "snapshots" / main.read_text(encoding="utf-8").strip() if main.is_file() else None
    found = [named] if named in snapshots else snapshots
    if not found:
        kind = DamagedError if list(directory.rglob("*.incomplete")) else MissingError
        expected = "snapshots/REVISION with the files of the repository"
        raise kind("a download that never finished", where=directory, got=leavings(directory), expected=expected, next=fetch(directory))
    if len(whole := [path for path in found if not _dangling(path)]) > 1:
        names, next = ", ".join(path.name for path in whole), "pass the folder of one of them"
        raise DamagedError("the cache holds several snapshots, none of them main", where=directory, got=names, expected="one", next=next)
    for path in [] if whole else found:
        verify_links(path)
    return whole[0]


def cache_of(path: Path) -> Path | None:
    """The folder `models--ORG--NAME` of a Hugging Face cache that `path` is or lies in."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.name.startswith(CACHED)), None)


def fetch(path: Path) -> str | None:
    cache = cache_of(path)
    return None if cache is None else f"harness download {cache.name.removeprefix(CACHED).replace('--', '/', 1)}"


def leavings(cache: Path) -> str:
    counts = {"unfinished files": "*.incomplete", "locks": "*.lock"}
    found = [f"{count} {what}" for what, pattern in counts.items() if (count := len(list(cache.rglob(pattern))))]
    return " and ".join(found) or listing(cache)


def _dangling(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_symlink() and not path.exists())


def verify_links(directory: Path) -> None:
    if lost := _dangling(directory):
        got = f"{len(lost)}: {', '.join(str(path.relative_to(directory)) for path in lost[:4])}"
        raise DamagedError("files are links to nothing", where=directory, got=got, expected="whole files", next=fetch(directory))


def listing(directory: Path) -> str:
    names: Iterable[str] = sorted(path.name for path in directory.iterdir())
    return ", ".join(names) or "an empty directory"
