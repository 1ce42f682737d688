"""A π0 or π0.5 of openpi or transformers, rewritten as a checkpoint of lerobot, with today's names or those before October 2025."""

from __future__ import annotations

from pathlib import Path

from harness.converters._pi0_documents import lerobot_config, text
from harness.converters._pi0_files import ORIGINALS
from harness.converters._pi0_source import Checkpoint, open_checkpoint
from harness.converters._pi0_stats import buffers, normaliser_documents, normaliser_state
from harness.converters._pi0_write import absent, destined, merged, unused_head, write_companions
from harness.errors import UsageError
from harness.layouts import tensors
from harness.layouts.pi0 import BUFFERS, EMBEDDING, EXPERT_HEAD, old_name
from harness.layouts.tensors import Lazy

__all__ = ["convert"]


def convert(
    source: Path, destination: Path, *, layout: str | None = None, sizes: dict[str, int] | None = None, asset: str | None = None, old_names: bool = False
) -> None:
    """Write `model.safetensors`, `config.json` and the statistics, as saved pipelines or, with `old_names`, as buffers.

    Every number is kept as it is. The expert's `lm_head`, which nothing reads, becomes zeros where the source has none.
    What lerobot has no place for goes to `leftovers.safetensors` and `originals/`, from where it returns on the way back.
    A checkpoint that was lerobot's before keeps its own documents, whichever names are asked for.
    Raises UsageError when the destination exists and for old names of a π0.5, which is younger; MissingError, DamagedError.
    """
    absent(destination)
    checkpoint = open_checkpoint(source, layout=layout, given=sizes, asset=asset)
    if old_names and checkpoint.sizes.adaptive:
        raise UsageError("lerobot has no π0.5 of old names", where=source, got="a π0.5", expected="today's names")
    back, left = merged(checkpoint, "lerobot_pi0", lambda name: name)
    network = {checkpoint.embedding if name == EMBEDDING else name: tensor for name, tensor in checkpoint.tensors.items()}
    filled = {} if EXPERT_HEAD in back else {EXPERT_HEAD: unused_head(checkpoint)}
    weights = {**network, **back, **filled}
    documents, states = _statistics(checkpoint, old=old_names, known=any(name.startswith(BUFFERS) for name in back))
    weights |= states.pop("model.safetensors", {})
    with destined(destination) as folder:
        tensors.save(folder / "model.safetensors", {old_name(name) if old_names else name: tensor for name, tensor in weights.items()})
        built = {"config.json": text(lerobot_config(checkpoint, old=old_names)), **documents}
        write_companions(folder, checkpoint, "lerobot_pi0", built=built, leftovers=left, filled=bool(filled))
        for name, state in states.items():
            tensors.save(folder / name, state)


def _statistics(checkpoint: Checkpoint, *, old: bool, known: bool) -> tuple[dict[str, str], dict[str, dict[str, Lazy]]]:
    """Documents and tensors, by file, of statistics that do not come back as lerobot's own."""
    stats = checkpoint.facts.stats
    own = checkpoint.layout == "lerobot_pi0" or (checkpoint.directory / ORIGINALS / "lerobot_pi0").is_dir()
    if stats is None or known or own:
        return {}, {}
    if old:
        return {}, {"model.safetensors": buffers(stats)}
    pipelines = normaliser_documents(lerobot_config(checkpoint, old=False))
    return {name: document for name, (document, _) in pipelines.items()}, {state: normaliser_state(stats) for _, state in pipelines.values()}
