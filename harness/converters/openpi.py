"""A π0 or π0.5 of lerobot or transformers, rewritten as an openpi checkpoint."""

from __future__ import annotations

from pathlib import Path

from harness.converters._pi0_source import open_checkpoint
from harness.converters._pi0_stats import norm_stats
from harness.converters._pi0_write import absent, destined, merged, write_companions
from harness.errors import UsageError
from harness.layouts import orbax
from harness.layouts.pi0_arrays import to_leaves

__all__ = ["convert"]

ASSET = "converted"  # the data set's name in assets/, where the source does not tell one


def convert(source: Path, destination: Path, *, layout: str | None = None, sizes: dict[str, int] | None = None, asset: str | None = None) -> None:
    """Write `params/` (orbax, a pure dict under `params`) and, where statistics are known, `assets/NAME/norm_stats.json`.

    Every number is kept as it is. What openpi has no place for goes to `leftovers.safetensors` and `originals/`, from where it
    returns on the way back. `layout` is the source's (else told by its files), `sizes` what its files do not tell.
    Raises UsageError when the destination exists or one width cannot serve state and action, MissingError, DamagedError.
    """
    absent(destination)
    checkpoint = open_checkpoint(source, layout=layout, given=sizes, asset=asset)
    own = checkpoint.sizes
    if not own.adaptive and own.state != own.action:
        raise UsageError("openpi pads state and action to one width", where=source, got=f"state {own.state}, action {own.action}", expected="the same")
    back, left = merged(checkpoint, "openpi", lambda name: None)
    stats = checkpoint.facts.stats
    with destined(destination) as folder:
        leaves = {**to_leaves(checkpoint.tensors, own, where=source), **back}
        orbax.write(folder / "params", {path: leaf.read() for path, leaf in leaves.items()})
        built = {f"assets/{asset or ASSET}/norm_stats.json": norm_stats(stats)} if stats else {}
        write_companions(folder, checkpoint, "openpi", built=built, leftovers=left)
