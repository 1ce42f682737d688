"""The engine ray: the local engine's files bit for bit, also when a node is lost; what differs between machines is an error that arrives."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import readers, subjects
from harness.adapters import Adapter
from harness.engines import _ray_actor, _ray_cluster
from harness.engines._ray_actor import Extractor, Order, Told, order
from harness.engines.local import local
from harness.engines.ray import ray as engine
from harness.errors import DamagedError, HarnessError, MissingError, UsageError
from harness.extract import Done, Job, Sink, feature_sink, run
from harness.pipeline import Block, Keep
from harness.readers import Stream
from harness.storage import storage
from harness.types import Batch, Point, Runtime, Sample, Weights

ROOT = Path(__file__).resolve().parent.parent
POINTS = [Point.parse(name) for name in ("lm.embedding", "lm.01.output")]
SHARDS = 12


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The repository's cards, and the threads of the tests before and after."""
    import torch

    threads, variables = torch.get_num_threads(), {name: os.environ.get(name) for name in _ray_actor.THREADS}
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    yield
    torch.set_num_threads(threads)
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return subjects.load(subjects.resolve("toy_lm:mock"), Runtime())


@pytest.fixture
def stream() -> Stream:
    return readers.stream("made-up", reader="mock", options={"episodes": 16 * SHARDS, "steps": 2})


@pytest.fixture
def job(adapter: Adapter, stream: Stream, tmp_path: Path) -> Job:
    return job_of(adapter, stream, tmp_path / "ray")


def job_of(adapter: Adapter, stream: Stream, root: Path) -> Job:
    return Job(adapter.subject, Runtime(), stream, feature_sink(adapter, stream, POINTS, root=str(root)), threads=1)


def files(root: Path) -> dict[str, bytes]:
    """Every file of a store but its log, which tells when."""
    return {name: (root / name).read_bytes() for name in storage(root).names() if name != "events.jsonl" and not name.startswith("locks/")}


def told(packed: Order, numbers: Sequence[int] = (0,), attempt: int = 1) -> list[Any]:
    """What an actor tells of some shards, in this process."""
    return results(Extractor(pickle.dumps(packed), lambda group: attempt), numbers)


def results(extractor: Extractor, numbers: Sequence[int]) -> list[Any]:
    told: list[Told] = [pickle.loads(each) for row in extractor({"shard": np.array(numbers)}) for each in row["told"]]
    return [each.result for each in told]


@dataclass(frozen=True)
class Other(Sink):
    """A sink that does as `inner`, except for what a test is about."""

    inner: Sink

    @property
    def points(self) -> tuple[Point, ...]:  # type: ignore[override]
        return self.inner.points

    @property
    def destination(self) -> str:
        return self.inner.destination

    def keep(self, batch: Batch) -> Keep:
        return self.inner.keep(batch)

    def lock(self) -> AbstractContextManager[None]:
        return self.inner.lock()

    def found(self, stream: Stream, number: int) -> Done | None:
        return self.inner.found(stream, number)

    def put(self, block: Block) -> Done:
        return self.inner.put(block)

    def finish(self, stream: Stream, done: Sequence[Done]) -> Mapping[str, str]:
        return self.inner.finish(stream, done)


@dataclass(frozen=True)
class Lost(Other):
    """Ends the node that first writes shard `last`, the process and its raylet, before anything of it is written."""

    mark: Path
    last: int

    def put(self, block: Block) -> Done:
        if block.shard == self.last and not self.mark.exists():
            assert Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip() == "raylet"
            self.mark.write_text(str(os.getppid()), encoding="utf-8")
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().put(block)


@dataclass(frozen=True)
class Full(Other):
    """Has no room."""

    def put(self, block: Block) -> Done:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes of one CPU each beside a head that computes nothing; a lost node is noticed after about two seconds."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # the nodes unpickle this module's sinks
        for name, value in _ray_cluster.QUIET.items():
            patch.setenv(name, value)
        watch = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        memory = {"object_store_memory": 80 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": watch, **memory})
        for _ in range(2):
            nodes.add_node(num_cpus=1, **memory)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
        nodes.shutdown()


def test_losing_a_node_in_mid_run_loses_nothing_and_leaves_the_local_engines_bytes(
    cluster: None, adapter: Adapter, stream: Stream, tmp_path: Path
) -> None:
    alone, spread = (job_of(adapter, stream, tmp_path / name) for name in ("local", "ray"))
    run(alone, lambda job, shards: local(job, shards, adapter=adapter))
    assert _ray_cluster.places({"CPU": 1}) == 2
    through: list[int] = []
    lossy = replace(spread, sink=Lost(spread.sink, tmp_path / "lost", SHARDS // 2))
    summary = run(lossy, lambda job, shards: engine(job, shards, actors=2, progress=through.append))
    assert (tmp_path / "lost").exists()
    assert _ray_cluster.places({"CPU": 1}) == 1
    assert (summary.rows, summary.broken, summary.resumed) == (16 * SHARDS * 2, (), 0)
    assert through[-1] == 16 * SHARDS * 2
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert len(files(tmp_path / "ray")) == len(POINTS) * (SHARDS + 1)


def test_an_error_on_a_node_arrives_as_itself(cluster: None, adapter: Adapter, job: Job, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(instructions("open it"), encoding="utf-8")
    changed = job_of(adapter, readers.stream(str(path), reader="instructions"), tmp_path / "store")
    path.write_text(instructions("shut it"), encoding="utf-8")
    with pytest.raises(DamagedError, match="is another one here"):
        run(changed, engine)
    with pytest.raises(MissingError, match="no node of the Ray cluster can hold the model(.|\n)*64 CPU"):
        run(replace(job, threads=64), engine)


def test_a_full_disk_on_a_node_is_told_as_one(job: Job) -> None:
    (error,) = told(order(replace(job, sink=Full(job.sink)), 1))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC


def test_what_an_actor_writes_is_what_the_local_engine_writes(adapter: Adapter, stream: Stream, tmp_path: Path) -> None:
    alone, spread = (job_of(adapter, stream, tmp_path / name) for name in ("local", "ray"))
    numbers = [0, 3, 7]
    assert told(order(spread, 1), numbers) == list(local(alone, numbers, adapter=adapter))
    assert files(tmp_path / "ray") == files(tmp_path / "local") != {}


def test_an_actor_that_takes_over_computes_only_what_is_not_there(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    first = told(order(job, 1), [2, 5])
    computed: list[list[int]] = []
    monkeypatch.setattr(_ray_actor, "work", lambda job, adapter, numbers: computed.append(numbers) or iter(()))
    assert told(order(job, 1), [2, 4, 5, 6]) == first
    assert computed == [[4, 6]]


def test_an_actor_loads_its_model_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = subjects.load
    monkeypatch.setattr(subjects, "load", lambda subject, runtime: loads.append(subject.id) or load(subject, runtime))
    extractor = Extractor(pickle.dumps(order(job, 1)), lambda group: 1)
    assert [done.shard for group in ([0], [1, 2]) for done in results(extractor, group)] == [0, 1, 2]
    assert loads == ["toy_lm:mock"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_model_runs_with_the_threads_of_the_machine_that_asks(job: Job, threads: int) -> None:
    import torch

    told(order(job, threads))
    assert torch.get_num_threads() == threads
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


def test_a_library_of_another_version_is_refused(job: Job) -> None:
    packed = order(job, 1)
    (error,) = told(replace(packed, circumstances={**packed.circumstances, "version of torch": "0.4"}))
    assert isinstance(error, UsageError)
    assert "would compute other numbers" in str(error)
    assert error.where == "version of torch"
    assert error.expected == "0.4"


def test_weights_that_differ_on_a_node_are_refused(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "fixtures/data/openvla_tiny/checkpoint", folder)
    subject = subjects.resolve("openvla_tiny:checkpoint")
    packed = order(replace(job, subject=replace(subject, weights=replace(subject.weights, directory=folder))), 1)
    file = max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (error,) = told(packed)
    assert isinstance(error, UsageError)
    assert error.where == "weights"
    shutil.rmtree(folder)
    (error,) = told(packed)
    assert isinstance(error, MissingError)
    assert "there is no checkpoint here" in str(error)


def test_relative_names_of_a_checkpoint_become_absolute(job: Job) -> None:
    subject = replace(job.subject, weights=Weights("directory", "d", Path("checkpoint")))
    sent: Job = pickle.loads(order(replace(job, subject=subject), 1).job)
    assert sent.subject.weights.directory == ROOT / "checkpoint"


DATA: dict[str, tuple[Callable[[Path], object], type[HarnessError], str]] = {
    "other content": (lambda path: path.write_text(instructions("open it", "shut it"), encoding="utf-8"), DamagedError, "the dataset .* is another one here"),
    "not there": (lambda path: path.unlink(), MissingError, "the dataset .* is not on this machine"),
}


def instructions(*texts: str) -> str:
    return json.dumps({"instructions": [{"id": str(number), "instruction": text} for number, text in enumerate(texts)]})


@pytest.mark.parametrize("case", DATA)
def test_a_dataset_that_differs_on_a_node_is_refused(case: str, adapter: Adapter, tmp_path: Path) -> None:
    change, kind, message = DATA[case]
    path = tmp_path / "tasks.json"
    path.write_text(instructions("open it"), encoding="utf-8")
    packed = order(job_of(adapter, readers.stream(str(path), reader="instructions"), tmp_path / "store"), 1)
    change(path)
    (error,) = told(packed)
    with pytest.raises(kind, match=message):
        raise error


def test_a_dataset_travels_by_where_it_lies_and_not_by_its_content(tmp_path: Path) -> None:
    selection = readers.Selection(episodes=3, plan=frozenset({"libero_90_00/0"}))
    whole = readers.stream("libero_instructions", selection=selection)
    assert len(list(whole.reader.read(0, len(whole.reader)))) == 112
    packed = pickle.dumps(whole)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert (again.name, again.digest, again.selection) == (whole.name, whole.digest, selection)
    assert [record.id for record in again] == [record.id for record in whole]


def test_a_dataset_made_in_the_process_travels_as_it_is() -> None:
    opened = readers.stream("made-up", reader="mock", options={"episodes": 2}).reader
    again = pickle.loads(pickle.dumps(Stream("mine", "digest of mine", opened)))
    assert (again.name, again.digest, again.episodes) == ("mine", "digest of mine", 2)
    assert all(isinstance(record, Sample) for record in again)


def test_a_relative_destination_needs_the_same_working_folder(job: Job, tmp_path: Path) -> None:
    packed = replace(order(job, 1), folder=tmp_path / "elsewhere")
    assert isinstance(told(packed)[0], Done)
    (error,) = told(replace(packed, destination="features"))
    assert isinstance(error, MissingError)
    assert "the run's working folder is not on" in str(error)


def test_shards_that_end_every_process_end_the_run(job: Job) -> None:
    packed = order(job, 1)
    (error,) = told(packed, [4, 5], attempt=_ray_actor.ATTEMPTS + 1)
    assert isinstance(error, DamagedError)
    assert "shards 4 to 5" in str(error)
    assert isinstance(told(packed, attempt=_ray_actor.ATTEMPTS)[0], Done)


def test_a_destination_of_the_nodes_own_is_refused(job: Job, adapter: Adapter, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[engine.__module__], "PATIENCE", 0.0)
    (done,) = told(order(job, 1))
    sys.modules[engine.__module__]._require_visible(job, done, "here")
    with pytest.raises(UsageError, match="the destination is not the same on every node(.|\n)*node-7 wrote shard 0"):
        sys.modules[engine.__module__]._require_visible(job_of(adapter, stream, tmp_path / "another"), done, "node-7")


def test_a_numbered_gpu_is_refused(job: Job) -> None:
    with pytest.raises(UsageError, match="gives every model a GPU of its own(.|\n)*--device cuda"):
        next(engine(replace(job, runtime=Runtime("cuda:1")), [0]))


def test_without_ray_the_error_says_how_to_install_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingError, match=r"pip install 'vla-harness\[ray\]' -c constraints.txt"):
        next(engine(job, [0]))


@pytest.mark.parametrize("address", ["cluster", "10.0.0.1", "ray://10.0.0.1:10001", "head:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a Ray cluster(.|\n)*HOST:PORT"):
        _ray_cluster._connect(address, None)


ANSWERS: dict[str, Callable[[socket.socket], object]] = {
    "nobody": lambda listening: listening.close(),
    "somebody who says nothing": lambda listening: listening.listen(),
    "a web server": lambda listening: (listening.listen(), threading.Thread(target=_answer, args=(listening,), daemon=True).start()),
}


def _answer(listening: socket.socket) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("who", ANSWERS)
def test_an_address_where_no_cluster_answers_is_an_error_within_seconds(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ray_cluster, "SECONDS", 0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*listening.getsockname())
        ANSWERS[who](listening)
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        for given in (address, "auto"):
            with pytest.raises(MissingError, match=f"no Ray cluster answers(.|\n)*{address}(.|\n)*ray start --head"):
                _ray_cluster._connect(given, None)
        assert time.monotonic() - started < 15


@pytest.mark.parametrize(("failure", "kind"), [(ConnectionError("none is running"), MissingError), (RuntimeError("Version mismatch"), UsageError)])
def test_a_cluster_that_cannot_be_joined_says_why(failure: Exception, kind: type[HarnessError], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**options: object) -> None:
        raise failure

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(kind, match=str(failure)):
        _ray_cluster._connect("auto", None)
