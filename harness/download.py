"""A published checkpoint from the hub into the cache or a folder: whole, and byte for byte what the hub lists, or not there."""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from harness import checkpoints
from harness.cards import model_cards
from harness.errors import DamagedError, MissingError, UsageError
from harness.types import Progress

__all__ = ["download"]

PATIENCE = 8.0  # seconds until the hub counts as out of reach; name look-ups know no timeout of their own
_BY_HAND = "copy the folder from a machine with network, then --checkpoint MODEL=DIR"
_AGAIN = "run the same command again: whole files are kept"


class Published(NamedTuple):
    """One file as the hub lists it: bytes, and the sha256 of those kept in its large-file storage."""

    size: int
    sha256: str | None


def download(
    repo: str, *, revision: str | None = None, to: Path | None = None, include: Sequence[str] = (), progress: Progress | None = None
) -> Path:
    """The folder that holds repository `repo` (or that of the card of this name): the hub's cache, or `to`.

    `include` are patterns of the files to fetch, all by default. A folder `to` appears only once it is whole; until then
    `to`.partial keeps finished files. Raises MissingError when the hub is out of reach (within seconds), refuses, or the
    disk is too small; UsageError for a name, revision or pattern that fits nothing; DamagedError when the files differ
    from what the hub lists, or are no checkpoint.
    """
    from huggingface_hub import snapshot_download

    repo_id = _repository(repo)
    with _plain_errors(repo_id, revision):
        commit, listed = _listing(repo_id, revision)
    wanted = _selected(listed, include, repo_id)
    if to is not None and (to.is_file() or (to.is_dir() and any(to.iterdir()))):
        return _already(to, wanted, repo_id)
    partial = None if to is None else to.with_name(f"{to.name}.partial")
    with _plain_errors(repo_id, revision, started=True):
        _require_space(_lacking(wanted, partial, repo_id, commit), partial)
        # A commit instead of a branch for a folder of one's own: otherwise the cache is left with a reference and no files.
        pinned = revision if partial is None else commit
        folder = Path(
            snapshot_download(repo_id, revision=pinned, local_dir=partial, allow_patterns=list(include) or None, etag_timeout=PATIENCE)
        )
    if wrong := _differing(folder, wanted, progress):
        for name in wrong:
            _remove(folder / name)
        raise DamagedError(
            f"{len(wrong)} files are not what the hub lists",
            where=folder,
            got=", ".join(list(wrong.values())[:4]),
            expected="the size and sha256 of each",
            next="run the same command again: they were removed",
        )
    if not include:
        checkpoints.verify(folder)
    if to is None or partial is None:
        return folder
    partial.replace(to)
    return to


def _repository(name: str) -> str:
    card = model_cards().get(name)
    if card is None:
        return name
    repo = card.scales["checkpoint"].repo if "checkpoint" in card.scales else None
    if repo is None:
        raise UsageError(
            f"the card of {name} names no repository",
            where=card.folder / f"{name}.toml",
            expected="a scale checkpoint with repo",
            next="harness download ORGANISATION/NAME",
        )
    return repo


def _listing(repo_id: str, revision: str | None) -> tuple[str, dict[str, Published]]:
    """The commit and its files. The first word with the hub, so that a machine without network is told at once."""
    from huggingface_hub import HfApi

    info = _within(PATIENCE, lambda: HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=PATIENCE / 2))
    return info.sha, {file.rfilename: Published(file.size or 0, file.lfs.sha256 if file.lfs else None) for file in info.siblings or ()}


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises; TimeoutError when it takes longer (it is left behind in a daemon thread)."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised again where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(seconds)


def _selected(listed: Mapping[str, Published], include: Sequence[str], repo_id: str) -> dict[str, Published]:
    from huggingface_hub.utils import filter_repo_objects

    chosen = set(filter_repo_objects(listed, allow_patterns=list(include) or None))
    if not chosen:
        names = sorted(listed)
        raise UsageError(
            "no file of the repository fits",
            where=repo_id,
            got=", ".join(include) or "an empty repository",
            expected=", ".join(names[:12]) + (f" … ({len(names)} in all)" if len(names) > 12 else ""),
        )
    return {name: file for name, file in listed.items() if name in chosen}


def _already(to: Path, wanted: Mapping[str, Published], repo_id: str) -> Path:
    wrong = ["it is a file"] if to.is_file() else list(_differing(to, wanted, None).values())
    if wrong:
        raise UsageError(
            "the folder is there and holds something else",
            where=to,
            got=", ".join(wrong[:4]),
            expected=f"an empty or absent folder, or the whole of {repo_id}",
            next="name another folder with --to",
        )
    return to


def _lacking(wanted: Mapping[str, Published], partial: Path | None, repo_id: str, commit: str) -> int:
    """Bytes that are still to be fetched."""
    from huggingface_hub import try_to_load_from_cache

    def here(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repo_id, name, revision=commit), str) if partial is None else (partial / name).is_file()

    return sum(file.size for name, file in wanted.items() if not here(name))


def _require_space(needed: int, partial: Path | None) -> None:
    from huggingface_hub import constants

    folder = (Path(constants.HF_HUB_CACHE) if partial is None else partial).resolve()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise MissingError(
            "the disk is too small for the download",
            where=folder,
            got=f"{free / 1e9:.2f} GB free",
            expected=f"{needed / 1e9:.2f} GB",
            next="make room, or --to a folder on another disk",
        )


def _differing(folder: Path, wanted: Mapping[str, Published], progress: Progress | None) -> dict[str, str]:
    """Each file that is absent, of another size or of another sha256, with a word on it."""
    wrong, done, total = {}, 0, sum(file.size for file in wanted.values())
    for name, file in wanted.items():
        path = folder / name
        if not path.is_file():
            wrong[name] = f"{name} is absent"
        elif path.stat().st_size != file.size:
            wrong[name] = f"{name} has {path.stat().st_size} of {file.size} bytes"
        elif file.sha256 is not None and _sha256(path) != file.sha256:
            wrong[name] = f"{name} has another sha256"
        done += file.size
        if progress is not None:
            progress(done, total, f"verifying {name}")
    return wrong


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    """The file, and in the cache the content it links to."""
    target = path.resolve()
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)


@contextmanager
def _plain_errors(repo_id: str, revision: str | None, *, started: bool = False) -> Iterator[None]:
    """Within: the hub's errors as this project's, each with what to do; `started` once the hub has answered."""
    from huggingface_hub import constants, errors

    def unreachable(got: str) -> MissingError:
        what, next = ("the hub went out of reach", _AGAIN) if started else ("the hub cannot be reached", _BY_HAND)
        return MissingError(what, where=constants.ENDPOINT, got=got, expected=f"network, to fetch {repo_id}", next=next)

    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError("this is no repository name", got=repo_id, expected="ORGANISATION/NAME, or the name of a card") from error
    except errors.GatedRepoError as error:
        raise MissingError(
            "the repository asks for its terms to be accepted",
            where=repo_id,
            got="access refused",
            next="accept them on the repository's page, then hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        near = get_close_matches(repo_id, model_cards(), n=1)
        raise MissingError(
            "there is no such repository, or it is private",
            got=repo_id,
            expected=f"the card {near[0]}?" if near else "ORGANISATION/NAME",
            next="check the name; for a private one hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError("the repository has no such revision", where=repo_id, got=revision, expected="a branch, tag or commit") from error
    except errors.HfHubHTTPError as error:
        raise MissingError("the hub refuses", where=repo_id, got=_first_line(error), next=_AGAIN) from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, TimeoutError, errors.HTTPError) as error:
        raise unreachable("HF_HUB_OFFLINE is set" if constants.is_offline_mode() else _first_line(error)) from error
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise MissingError(
            "the disk is full" if full else "the download stopped",
            where=error.filename or repo_id,
            got=_first_line(error),
            next="make room, then run again" if full else _AGAIN,
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no answer').splitlines()[0]}"
