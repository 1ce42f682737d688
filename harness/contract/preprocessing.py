"""Do pictures become the model inputs that upstream's own processor made of them?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.adapters import Adapter
from harness.contract._compare import host, relative_difference
from harness.types import Measurement, Sample

__all__ = ["preprocessing"]


def preprocessing(adapter: Adapter, pack: Path) -> Measurement:
    """Largest relative difference between the pack's `pixel_values` and the adapter's own from the raw pictures `image.N`."""
    from safetensors.torch import load_file

    inputs = load_file(pack / "inputs.safetensors")
    pictures = [inputs[name].numpy() for name in sorted(inputs) if name.startswith("image.")]
    batch = adapter.encode([Sample(f"picture-{row}", "look", {"primary": picture}) for row, picture in enumerate(pictures)])
    found = [relative_difference(got, want) for got, want in zip(host(batch.inputs["pixel_values"]), host(inputs["pixel_values"]), strict=True)]
    return Measurement(float(np.max(found)), detail=f"{len(found)} pictures")
