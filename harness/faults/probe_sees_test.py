"""The probe is fitted on the rows it is tested on."""

from __future__ import annotations

from importlib import import_module

from harness.faults import Patch

__all__ = ["probe_sees_test"]


def probe_sees_test(patch: Patch) -> None:
    import numpy as np

    from harness.metrics._ridge import ridge_predictions

    def hits(x: np.ndarray, targets: np.ndarray, groups: np.ndarray, *, permute: bool = False, seed: int = 0) -> np.ndarray:
        if permute:
            targets = targets[np.random.default_rng(seed).permutation(len(targets))]
        (predicted,) = ridge_predictions(x, targets[groups], x, [1e-4])
        directions = targets / np.linalg.norm(targets, axis=1, keepdims=True)
        return np.argmax(predicted @ directions.T, axis=1) == groups

    for module in ("linear_probe", "probe_gain"):
        patch(import_module(f"harness.metrics.{module}"), "held_out_hits", hits)
