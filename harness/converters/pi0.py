"""A π0 of openpi or lerobot, rewritten as a checkpoint of transformers' own `pi0`."""

from __future__ import annotations

from pathlib import Path

from harness.converters._pi0_documents import native_config, native_processor, text
from harness.converters._pi0_source import open_checkpoint
from harness.converters._pi0_write import absent, destined, merged, unused_head, write_companions
from harness.errors import UsageError
from harness.layouts import tensors
from harness.layouts.pi0 import EXPERT_HEAD, native_name

__all__ = ["convert"]


def convert(source: Path, destination: Path, *, layout: str | None = None, sizes: dict[str, int] | None = None, asset: str | None = None) -> None:
    """Write `model.safetensors`, `config.json` and `processor_config.json` of `PI0ForConditionalGeneration`.

    Every number is kept as it is. The expert's own vocabulary, which nothing reads, becomes zeros where the source has none.
    What transformers has no place for goes to `leftovers.safetensors` and `originals/`, from where it returns on the way back.
    Raises UsageError when the destination exists and for a π0.5, which transformers does not have; MissingError, DamagedError.
    """
    absent(destination)
    checkpoint = open_checkpoint(source, layout=layout, given=sizes, asset=asset)
    if checkpoint.sizes.adaptive:
        expected = "a π0; openpi and lerobot have both"
        raise UsageError("transformers' pi0 has no π0.5 (adaptive norms, no state token)", where=source, got="a π0.5", expected=expected)
    back, left = merged(checkpoint, "pi0", native_name)
    head = native_name(EXPERT_HEAD)
    filled = {} if head in back else {head: unused_head(checkpoint)}
    with destined(destination) as folder:
        network = {native_name(name): tensor for name, tensor in checkpoint.tensors.items()}
        tensors.save(folder / "model.safetensors", {**network, **back, **filled})
        built = {"config.json": text(native_config(checkpoint)), "processor_config.json": text(native_processor(checkpoint))}
        write_companions(folder, checkpoint, "pi0", built=built, leftovers=left, filled=bool(filled))
