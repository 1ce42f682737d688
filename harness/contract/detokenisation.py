"""Do action tokens become the actions that upstream's own code made of them?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from harness.adapters import Adapter
from harness.types import Measurement

__all__ = ["detokenisation"]


def detokenisation(adapter: Adapter, pack: Path) -> Measurement:
    """Largest absolute difference, in the dataset's units, between decoded actions and those of the pack's `actions.json`.

    What that file says beside its cases (bins, statistics) is what upstream's processor would have saved.
    """
    saved = json.loads((pack / "actions.json").read_text(encoding="utf-8"))
    cases = saved.pop("cases")
    decoded = [adapter.decode(case["token_ids"], case.get("unnorm_key", saved.get("unnorm_key")), saved) for case in cases]
    return Measurement(
        max(float(np.abs(got - case["actions"]).max()) for got, case in zip(decoded, cases, strict=True)), detail=f"{len(cases)} token sequences"
    )
