"""Many machines: Ray Data hands groups of shards to actors with a model each, and gives them again when a node is lost."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from harness.engines._ray_actor import Extractor, Told, order
from harness.engines._ray_cluster import Attempts, connected, places
from harness.errors import MissingError, UsageError
from harness.extract import Done, Job

__all__ = ["ray"]

ROUNDS = 8  # groups of shards for each actor, so that all of them end at about the same time
GROUP = 8  # shards in a group at most; in it, reading and writing overlap with the model across shards
PATIENCE = 90.0  # seconds until a new file is visible here; NFS may remember for a minute that there was none


def ray(
    job: Job, shards: Sequence[int], *, address: str | None = None, actors: int | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[Done]:
    """Computes the shards on a Ray cluster, in any order, with the numbers of the local engine, bit for bit on a CPU.

    `address` is HOST:PORT or auto, None a cluster of this machine only; `actors` is how many models run at most, by default as many
    as the nodes hold: one per GPU, or one per `threads` CPUs. Raises MissingError, UsageError, and what loading raises on any node.
    """
    if job.runtime.device.startswith("cuda:"):
        raise UsageError("Ray gives every model a GPU of its own", got=job.runtime.device, expected="cuda", next="--device cuda")
    threads = job.threads or _threads()
    cuda = job.runtime.device != "cpu"
    need = {"CPU": 1, "GPU": 1} if cuda else {"CPU": threads}
    with connected(address, None if actors is None or cuda else actors * threads):
        count = min(places(need), actors or len(shards), len(shards))
        seen, through = set(), 0
        for told in _told(job, shards, count, threads, need):
            if not isinstance(told.result, Done):
                raise told.result
            if told.node not in seen:
                _require_visible(job, told.result, told.node)
                seen.add(told.node)
            through += told.result.samples
            if progress is not None:
                progress(through)
            yield told.result


def _told(job: Job, shards: Sequence[int], actors: int, threads: int, need: Mapping[str, int]) -> Iterator[Told]:
    """What the actors tell, as it comes."""
    from ray.data import ActorPoolStrategy, from_items
    from ray.exceptions import RayActorError

    size = max(1, min(GROUP, len(shards) // (actors * ROUNDS)))
    numbers = from_items([{"shard": number} for number in shards], override_num_blocks=-(-len(shards) // size))
    numbers.context.enable_progress_bars = numbers.context.print_on_execution_start = False
    told = numbers.map_batches(
        Extractor,
        batch_size=None,
        fn_constructor_args=(pickle.dumps(order(job, threads)), Attempts()),
        # a pool may shrink to one: a cluster that lost nodes goes on with those it has
        compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=need["CPU"],
        num_gpus=need.get("GPU"),
    )
    try:
        for batch in told.iter_batches(batch_size=None, prefetch_batches=0):
            yield from (pickle.loads(packed) for packed in batch["told"])  # noqa: S301 - from actors that this process started
    except RayActorError as error:
        got = str(error).strip().partition("\n")[0]
        next = "the logs of the node, in /tmp/ray/session_latest/logs, say why; the same command goes on with the shards that are left"
        raise MissingError("a process of the Ray cluster cannot be kept alive", got=got, next=next) from error


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _require_visible(job: Job, done: Done, node: str) -> None:
    """The first shard of a process elsewhere is where this one will look for it. Raises UsageError."""
    until = time.monotonic() + PATIENCE
    while job.sink.found(job.stream, done.shard) is None:
        if time.monotonic() >= until:
            got = f"{node} wrote shard {done.shard} to a place of its own"
            next = "a folder on a file system that all nodes share, or an address such as s3://bucket/folder"
            raise UsageError("the destination is not the same on every node", where=job.sink.destination, got=got, next=next)
        time.sleep(0.2)
