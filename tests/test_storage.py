"""A file in a storage is whole or not there, on this machine and behind fsspec."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from harness import storage as module
from harness.errors import MissingError, UsageError
from harness.storage import Storage, storage


@pytest.fixture(params=["local", "file address", "memory", "another address"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A path, a file:// address, an object store, and a system that needs a rename."""
    roots = {"local": tmp_path / "a", "file address": f"file://{tmp_path}/b", "memory": f"memory://{uuid.uuid4().hex}/c"}
    if request.param != "another address":
        return storage(roots[request.param])
    import fsspec

    return module._Remote(fsspec.filesystem("file"), str(tmp_path / "d"), at_once=False)


def test_what_was_written_is_read(place: Storage) -> None:
    assert (place.names(), place.size("x/y"), place.size("x")) == ([], None, None)
    place.write("x/y", b"one")
    place.write("x/y", b"other")
    place.write("x/z/w", b"")
    assert (place.read("x/y"), place.size("x/y"), place.size("x/z/w")) == (b"other", 5, 0)
    assert place.names() == place.names("x") == ["x/y", "x/z/w"]
    assert place.names("x/z") == ["x/z/w"] and place.names("none") == []
    assert place.size("x") is None and place.changed("x/y") >= 0


def test_what_was_never_written_is_not_found(place: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("none")


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = storage(tmp_path)
    place.write("x", b"old")

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(module, "_fsync", fail)
        place.write("x", b"new")
    assert place.read("x") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.12.tmp").write_bytes(b"half")
    assert storage(tmp_path).names() == []


def test_sweeping_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    import fsspec

    for place in (storage(tmp_path), module._Remote(fsspec.filesystem("file"), str(tmp_path), at_once=False)):
        place.write("a/x", b"1")
        place.write("b/y", b"2")
        for folder in ("a", "b"):
            (tmp_path / folder / ".x.12.tmp").write_bytes(b"half")
        place.sweep("a")
        place.sweep("none")
        assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == ["a/x", "b/.x.12.tmp", "b/y"]
        (tmp_path / "b/.x.12.tmp").unlink()


@pytest.mark.parametrize(("root", "error", "match"), [("nosuch://x", UsageError, "no address of a folder"), ("gs://bucket/x", MissingError, "package for this address is missing")])
def test_an_address_that_cannot_be_reached_is_told(root: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        storage(root)
