"""Runs of pytest in children of a process that has the frameworks imported, and nothing of this project's: the same run, sooner."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

__all__ = ["run", "server"]

ROOT = Path(__file__).resolve().parent.parent


def server() -> ForkServerContext:
    """A context whose children start with what `_warm` imports. There is one server for each process of the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["_warm"])
    return context


def run(context: ForkServerContext, arguments: list[str], home: Path, log: Path) -> int:
    """Exit status of `pytest arguments` in the project's root with `home` as $HARNESS_HOME; what it prints is in `log`."""
    child = context.Process(target=_pytest, args=(arguments, home, log))
    child.start()
    child.join()
    return child.exitcode


def _pytest(arguments: list[str], home: Path, log: Path) -> None:
    os.chdir(ROOT)
    os.environ["HARNESS_HOME"] = str(home)
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"  # two runs share the cores
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "jax" in sys.modules:  # what one run compiles the next ones need not
        options = {"compilation_cache_dir": str(home / "jax"), "persistent_cache_min_compile_time_secs": 0, "persistent_cache_min_entry_size_bytes": -1}
        for name, value in options.items():
            sys.modules["jax"].config.update(f"jax_{name}", value)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:  # those of the run that this one is part of
        del os.environ[name]
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
        raise SystemExit(int(pytest.main(arguments)))
