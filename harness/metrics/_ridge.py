"""Ridge regression for many penalties at once, through one eigendecomposition of the smaller Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["ridge_predictions"]


def ridge_predictions(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"], x_new: Float[np.ndarray, "m d"], penalties: Sequence[float]
) -> list[Float[np.ndarray, "m e"]]:
    """Predictions of y at `x_new`, one array per penalty, in float64.

    Features are standardised by the statistics of `x`; columns constant there (to rounding) carry nothing and are dropped. Targets are
    centred. A penalty multiplies the mean eigenvalue of the Gram matrix, so its meaning does not change with n, d or scale.
    Dual form (Saunders, Gammerman and Vovk, 1998).
    """
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    varying = std > 1e-12 * np.abs(mean)
    if not varying.any():
        return [np.broadcast_to(y.mean(0, dtype=np.float64), (len(x_new), y.shape[1])) for _ in penalties]
    scaled, scaled_new = ((rows[:, varying] - mean[varying]) / std[varying] for rows in (x, x_new))
    centre = y.mean(0, dtype=np.float64)
    eigenvalues, vectors = np.linalg.eigh(scaled @ scaled.T)
    rotated, cross = vectors.T @ (y - centre), (scaled_new @ scaled.T) @ vectors
    unit = eigenvalues.mean()
    return [cross @ (rotated / (eigenvalues + penalty * unit)[:, None]) + centre for penalty in penalties]
