"""A connection to a Ray cluster that prints nothing, fails early, and says how many models the cluster can hold."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

from harness.errors import MissingError, UsageError

__all__ = ["Attempts", "connected", "places"]

SECONDS = 5.0  # to answer; Ray itself would try for a minute, and then end the process
SETTINGS = b"\x04"  # the type of the frame that begins all that an HTTP/2 peer says, and Ray's head is one
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0\0\0\0\0"
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
OBJECTS = 128 * 2**20  # bytes of shared memory: only numbers of shards and what is told of them pass through it
START = "ray start --head on one machine, ray start --address HOST:6379 on the others; without an address a cluster of this machine is used"


@contextmanager
def connected(address: str | None, cpus: int | None) -> Iterator[None]:
    """Connected to `address` (HOST:PORT, or auto for the cluster that this machine belongs to); None starts one here, with `cpus`.

    A connection that the process has already is used and left. Raises MissingError, UsageError.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingError("the engine ray needs the ray package", got=error, next="pip install 'vla-harness[ray]' -c constraints.txt") from error
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is raised
    mine = not ray.is_initialized()
    try:
        if mine:
            _connect(address, cpus)
        yield
    finally:
        logger.setLevel(level)
        if mine:
            ray.shutdown()


def _connect(address: str | None, cpus: int | None) -> None:
    import ray

    here = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECTS}
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address not in (None, "auto"):
        _require_answer(address)
    try:
        with _silent():
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else here))
    except ConnectionError as error:
        raise MissingError("there is no Ray cluster", where=address, got=str(error).partition("\n")[0], next=START) from error
    except RuntimeError as error:  # another version of ray or Python there
        raise UsageError("the Ray cluster cannot be joined", where=address, got=error, next="the same ray and Python on every node") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the C++ part of Ray writes to the terminal before it knows that it should not."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_answer(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise UsageError("this is no address of a Ray cluster", got=address, expected="auto, or HOST:PORT of its head, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host, int(port)), SECONDS) as connection:
            connection.settimeout(SECONDS)
            connection.sendall(HELLO)
            answer = connection.recv(4)
    except OSError as error:
        raise MissingError("no Ray cluster answers", where=address, got=error, next=START) from error
    if answer[3:] != SETTINGS:
        raise MissingError("no Ray cluster answers", where=address, got=f"another service, which says {answer!r}", next=START)


class _Counter:
    """How often each group of shards was begun, for all nodes."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, group: int) -> int:
        self.begun[group] += 1
        return self.begun[group]


@final
class Attempts:
    """Counts how often a group of shards was begun, wherever it is called: Ray gives a group again for as long as processes end over it."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # not on a node that may be lost
        self.counter = ray.remote(_Counter).options(num_cpus=0, scheduling_strategy=here).remote()

    def __call__(self, group: int) -> int:
        """The number of this attempt, from 1."""
        import ray

        return ray.get(self.counter.begin.remote(group))


def places(need: Mapping[str, float]) -> int:
    """How many models with the resources `need` the nodes that are up can hold together. Raises MissingError for none."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(min(int(node.get(name, 0) // amount) for name, amount in need.items()) for node in nodes)
    if not count:
        wanted = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
        got = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in need) for node in nodes)
        next = "add a node with a GPU, or --device cpu" if "GPU" in need else "add a larger node, or run with fewer threads: OMP_NUM_THREADS=N"
        raise MissingError("no node of the Ray cluster can hold the model", got=f"nodes with {got}", expected=f"one with {wanted}", next=next)
    return count
