"""What the options of a run mean: which findings, checkpoints and device, where the report goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cards, findings, subjects
from harness import checkpoints as integrity
from harness.errors import MissingError, UsageError
from harness.types import Runtime

__all__ = ["checkpoints", "documents", "is_controller", "is_given", "report_folder", "require_samples", "runs_checks", "runtime"]

DOCUMENTS = pytest.StashKey[tuple[findings.Document, ...]]()


def documents(config: pytest.Config) -> tuple[findings.Document, ...]:
    """The findings of this run, read once. Raises DamagedError."""
    if DOCUMENTS not in config.stash:
        config.stash[DOCUMENTS] = findings.load()
    return config.stash[DOCUMENTS]


def checkpoints(config: pytest.Config) -> dict[str, Path]:
    """`--checkpoint` as model to directory. Raises UnknownNameError, MissingError, UsageError."""
    chosen: dict[str, Path] = {}
    for text in (text for group in config.getoption("--checkpoint") for text in group):
        model, sign, directory = text.partition("=")
        if not sign:
            raise pytest.UsageError(f"--checkpoint takes MODEL=DIRECTORY, got {text!r}; put test paths before it")
        if "checkpoint" not in (known := cards.model_card(model)).scales:
            raise UsageError(f"model {model} has no checkpoint scale", got=f"--checkpoint {text}", expected=f"a model with one; {model} has {', '.join(known.scales)}")
        if not (path := Path(directory).expanduser()).is_dir():
            raise MissingError("there is no checkpoint here", where=path, expected="a directory", next=f"--checkpoint {model}=DIRECTORY")
        path = integrity.locate(path)
        integrity.verify(path)
        chosen[model] = path.resolve()
    return chosen


def runtime(config: pytest.Config, subject: str) -> Runtime:
    """How a subject runs in this session: a checkpoint given by hand on the GPU if there is one.

    Raises MissingError when the device it needs is not there.
    """
    wanted = config.getoption("--device")
    device = wanted or ("cuda" if subjects.marker(subject) == "gpu" else "cpu")
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            if wanted or not is_given(config, subject):
                raise MissingError("no CUDA device was found", next="run on a machine with a GPU, or add --device cpu")
            device = "cpu"
    return Runtime(device, config.getoption("--dtype"), config.getoption("--attention"))


def is_given(config: pytest.Config, subject: str) -> bool:
    """Whether `--checkpoint` provides this subject."""
    model, _, scale = subject.partition(":")
    return scale == "checkpoint" and model in checkpoints(config)


def report_folder(config: pytest.Config) -> Path | None:
    """Where this run's report goes; None when it writes none."""
    wanted = config.getoption("--report") or ("none" if config.getoption("--fault") else "reports/latest")
    return None if wanted == "none" else Path(wanted)


def require_samples(config: pytest.Config) -> None:
    """Raises UsageError for models that are compared on no samples, and for samples of no comparison."""
    sides, dataset = config.getoption("--compare"), config.getoption("--dataset")
    if sides and dataset is None and not all(side.startswith("store:") for side in sides):
        raise pytest.UsageError("--compare runs models on samples: add --dataset NAME")
    if dataset is not None and not sides:
        raise pytest.UsageError("--dataset names the samples of --compare BEFORE AFTER")


def is_controller(config: pytest.Config) -> bool:
    """Whether this process is the one that reports, not a worker of pytest-xdist."""
    return not hasattr(config, "workerinput")


def runs_checks(config: pytest.Config) -> bool:
    """Whether the command line points at checks at all: other test runs write no report."""
    named = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    checks = (config.rootpath / "checks").resolve()
    return any(path == checks or checks in path.parents or path in checks.parents for path in named)
