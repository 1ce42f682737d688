"""A download is whole and verified or not there; without a hub, an account or room on the disk the error says so at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from harness import checkpoints
from harness import download as library
from harness.download import download
from harness.errors import DamagedError, HarnessError, MissingError, UsageError

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "fixtures/data/openvla_tiny/checkpoint"
FILES = {path.name: path.read_bytes() for path in sorted(TINY.iterdir())}
WEIGHTS = "model.safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download asks: the listing, the tree, and files; `org/tiny` holds the shipped checkpoint."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(FILES)  # what is sent; the listing stays that of FILES
        self.refused: dict[str, tuple[int, str]] = {}  # by part of the path: status and X-Error-Code
        self.sent: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def listed(name: str) -> dict[str, object]:
    content = FILES[name]
    entry: dict[str, object] = {"size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
    return entry | ({"lfs": {"sha256": digest(name), "size": len(content), "pointerSize": 134}} if name == WEIGHTS else {})


def digest(name: str) -> str:
    return hashlib.sha256(FILES[name]).hexdigest()


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for part, (status, code) in self.server.refused.items():
            if part in self.path:
                return self.reply(b"{}", status, {"X-Error-Code": code})
        if not path.startswith(("/api/models/org/tiny", "/org/tiny/resolve/")):
            return self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if "/tree/" in path:
            tree = [{"type": "file", "path": name, "oid": listed(name)["blobId"], **{key: value for key, value in listed(name).items() if key != "blobId"}} for name in FILES]
            for entry in tree:
                if "lfs" in entry:
                    entry["lfs"] = {"oid": digest(entry["path"]), "size": entry["size"], "pointerSize": 134}
            return self.reply(json.dumps(tree).encode())
        if path.startswith("/api/"):
            body = {"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name, **listed(name)} for name in FILES]}
            return self.reply(json.dumps(body).encode())
        name = path.split("/resolve/")[1].partition("/")[2]
        etag = digest(name) if name == WEIGHTS else str(listed(name)["blobId"])
        return self.reply(self.server.files[name], headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(FILES[name])), "X-Linked-Etag": f'"{etag}"'})

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.command == "GET":
            self.server.sent.append(self.path)
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub on this machine, and an empty cache."""
    served = Hub()
    thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    to_address(monkeypatch, served.address, tmp_path)
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def to_address(monkeypatch: pytest.MonkeyPatch, address: str, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def same(folder: Path) -> bool:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == FILES


def fetched(hub: Hub) -> list[str]:
    return [path.rpartition("/")[2] for path in hub.sent if "/resolve/" in path]


def test_a_repository_comes_whole_into_a_folder(hub: Hub, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    found = download("org/tiny", to=tmp_path / "here", progress=lambda done, total, label: calls.append((done, total)))
    assert found == tmp_path / "here"
    assert same(found)
    assert not (tmp_path / "here.partial").exists()
    assert not (tmp_path / "cache" / "models--org--tiny" / "refs").exists()
    assert calls[-1] == (sum(map(len, FILES.values())),) * 2
    checkpoints.verify(found)


def test_a_repository_comes_into_the_hub_s_cache_with_its_reference(hub: Hub, tmp_path: Path) -> None:
    found = download("org/tiny")
    assert found == tmp_path / "cache/models--org--tiny/snapshots" / COMMIT
    assert same(found)
    assert checkpoints.locate(tmp_path / "cache/models--org--tiny") == found
    assert checkpoints.verify_digests(found) == 1
    before = fetched(hub)
    assert download("org/tiny") == found
    assert fetched(hub) == before


def test_a_whole_folder_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    download("org/tiny", to=tmp_path / "here")
    before = fetched(hub)
    assert download("org/tiny", to=tmp_path / "here") == tmp_path / "here"
    assert fetched(hub) == before


def test_patterns_choose_files(hub: Hub, tmp_path: Path) -> None:
    found = download("org/tiny", to=tmp_path / "here", include=["*config.json"])
    assert {path.name for path in found.iterdir() if path.is_file()} == {name for name in FILES if name.endswith("config.json")}
    with pytest.raises(UsageError, match=rf"no file of the repository fits(.|\n)*\*\.onnx(.|\n)*{WEIGHTS}"):
        download("org/tiny", include=["*.onnx"])


def test_a_card_names_its_repository(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no such repository(.|\n)*openvla/openvla-7b"):
        download("openvla", to=tmp_path / "here")
    with pytest.raises(UsageError, match="card of toy_lm names no repository"):
        download("toy_lm")


def cut_off(hub: Hub) -> None:
    hub.refused[f"/resolve/{COMMIT}/{WEIGHTS}"] = (503, "")


def test_a_download_that_stops_leaves_nothing_that_looks_whole_and_goes_on_later(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits between its attempts
    cut_off(hub)
    with pytest.raises(MissingError, match=r"went out of reach(.|\n)*run the same command again"):
        download("org/tiny", to=tmp_path / "here")
    assert not (tmp_path / "here").exists()
    with pytest.raises(HarnessError):
        checkpoints.verify(tmp_path / "here.partial")
    before = set(fetched(hub))
    assert before
    hub.refused.clear()
    hub.sent.clear()
    assert same(download("org/tiny", to=tmp_path / "here"))
    assert fetched(hub) == [WEIGHTS]


@pytest.mark.parametrize("to", ["here", None])
def test_altered_bytes_are_removed_and_fetched_anew(hub: Hub, tmp_path: Path, to: str | None) -> None:
    folder = None if to is None else tmp_path / to
    hub.files[WEIGHTS] = FILES[WEIGHTS][:-1] + b"!"
    with pytest.raises(DamagedError, match=rf"1 files are not what the hub lists(.|\n)*{WEIGHTS} has another sha256"):
        download("org/tiny", to=folder)
    assert not list(tmp_path.rglob(WEIGHTS))
    assert not list(tmp_path.rglob(digest(WEIGHTS)))
    hub.files = dict(FILES)
    assert same(download("org/tiny", to=folder))


def test_what_is_no_checkpoint_does_not_take_the_folder_s_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    monkeypatch.setitem(FILES, WEIGHTS, pointer)
    hub.files[WEIGHTS] = pointer
    with pytest.raises(DamagedError, match="git-lfs pointer"):
        download("org/tiny", to=tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("there", ["a file", "another checkpoint"])
def test_a_folder_with_something_else_in_it_is_left_alone(hub: Hub, tmp_path: Path, there: str) -> None:
    to = tmp_path / "here"
    if there == "a file":
        to.write_text("mine")
    else:
        to.mkdir()
        (to / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds something else(.|\n)*--to"):
        download("org/tiny", to=to)
    assert (to if to.is_file() else to / "config.json").read_text() in ("mine", "{}")
    assert fetched(hub) == []


@pytest.mark.parametrize(
    ("part", "answer", "kind", "match"),
    [
        ("/api/models", (404, "RepoNotFound"), MissingError, r"no such repository, or it is private(.|\n)*org/tiny"),
        ("/api/models", (404, "RevisionNotFound"), UsageError, r"no such revision(.|\n)*branch, tag or commit"),
        ("/resolve/", (403, "GatedRepo"), MissingError, r"terms to be accepted(.|\n)*hf auth login"),
        ("/api/models", (429, ""), MissingError, r"the hub refuses(.|\n)*429"),
        ("/api/models", (500, ""), MissingError, r"the hub refuses(.|\n)*500"),
    ],
    ids=lambda value: value[1] or str(value[0]) if isinstance(value, tuple) else None,
)
def test_what_the_hub_refuses_is_told_in_words(hub: Hub, tmp_path: Path, part: str, answer: tuple[int, str], kind: type[HarnessError], match: str) -> None:
    hub.refused[part] = answer
    with pytest.raises(kind, match=match):
        download("org/tiny", to=tmp_path / "here", revision="v9")
    assert not (tmp_path / "here").exists()


def test_a_malformed_name_is_told_before_the_hub_is_asked(hub: Hub) -> None:
    with pytest.raises(UsageError, match="no repository name"):
        download("a/b/c")
    assert hub.sent == []


def test_a_disk_too_small_is_told_before_anything_is_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(MissingError, match=r"disk is too small(.|\n)*GB free"):
        download("org/tiny", to=tmp_path / "here")
    assert fetched(hub) == []
    monkeypatch.undo()


def test_files_that_are_there_need_no_room_again(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download("org/tiny")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert same(download("org/tiny"))


def test_a_disk_that_fills_up_on_the_way_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(MissingError, match=r"disk is full(.|\n)*make room"):
        download("org/tiny", to=tmp_path / "here")


def test_a_hub_that_does_not_answer_is_given_up_within_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "PATIENCE", 0.2)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *arguments, **options: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(MissingError, match=r"cannot be reached(.|\n)*no answer(.|\n)*--checkpoint MODEL=DIR"):
        download("org/tiny")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("reason", ["closed port", "HF_HUB_OFFLINE"])
def test_without_a_network_the_command_says_so_at_once(tmp_path: Path, reason: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS", "HF_", "TRANSFORMERS")) and not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_OFFLINE": "1"} if reason == "HF_HUB_OFFLINE" else {}
    started = time.monotonic()
    run = subprocess.run([Path(sys.executable).parent / "harness", "download", "openvla", "--to", tmp_path / "here"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "error: the hub cannot be reached" in run.stderr
    assert ("HF_HUB_OFFLINE is set" if reason == "HF_HUB_OFFLINE" else "refused") in run.stderr
    assert "--checkpoint MODEL=DIR" in run.stderr
    assert "Traceback" not in run.stderr
    assert time.monotonic() - started < 6
    assert not (tmp_path / "here").exists()
