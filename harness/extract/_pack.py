"""The feature files of document 004: `feats_A.pt`, a float32 tensor (n, d), and `extraction_metadata.json` beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from harness.storage import storage
from harness.types import Broken, Features, Point

__all__ = ["write_feats"]


def write_feats(
    folder: Path, features: Mapping[Point, Features], described: Mapping[str, object], broken: tuple[Broken, ...] = ()
) -> dict[str, str]:
    """Writes one pair of files for every point: into `folder`, or below it by the point's name where there are several.

    Each file is whole or not there. Returns the tensors' paths by point. Raises OSError.
    """
    import torch

    made = {}
    for point, found in features.items():
        place = folder if len(features) == 1 else folder / str(point)
        buffer = io.BytesIO()
        torch.save(torch.from_numpy(found.values.copy()), buffer)
        n, d = found.values.shape
        counts = {"num_samples": n, "hidden_size": d, "left_out": [{"id": record.id, "reason": record.reason} for record in broken]}
        told = {**described, "extraction_point": str(point), **counts, "store_key": found.key, "sample_ids": list(found.sample_ids)}
        files = storage(place)
        files.write("extraction_metadata.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        files.write("feats_A.pt", buffer.getvalue())
        made[str(point)] = str(place / "feats_A.pt")
    return made
