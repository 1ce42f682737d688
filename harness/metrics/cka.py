"""Centred kernel alignment: how alike the similarities between samples are in two feature sets."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from harness.errors import UsageError
from harness.metrics._base import paired, require_pair
from harness.metrics._gram import Gram, Moments, gram, hsic, inner

__all__ = ["cka"]

ROUNDING = 1e-13  # of a kernel's sum of squares: what is left of it below this is rounding


def _kept(x: Float[np.ndarray, "n d"], *, kernel: str = "linear", debiased: bool = True, sigma: float | None = 1.0, eps: float = 0.0) -> Gram:
    return gram(x, kernel, sigma).kept()


@paired(identical=1.0, prepare=_kept)
def cka(
    x: Float[np.ndarray, "n d"] | Gram,
    y: Float[np.ndarray, "n e"] | Gram,
    *,
    kernel: str = "linear",
    debiased: bool = True,
    sigma: float | None = 1.0,
    eps: float = 0.0,
) -> float:
    """Alignment of two kernels over the same samples, at most 1, which it is for features that differ by a rotation and a scale.

    HSIC(K, L) / (sqrt(HSIC(K, K) HSIC(L, L)) + eps); Kornblith et al. (2019), debiased with Song et al. (2012), equation 5.
    The debiased one is about 0 for independent features and may be negative. The other one lies in [0, 1] and is inflated where
    samples are few or features many: independent features of n = 500 and widths 48 and 7 give 0.04, of width 2000 both 0.8.
    `kernel` is `linear` or `rbf`, exp(-|a - b|^2 / (2 sigma^2)); `sigma` None is each side's own median distance, over at most
    1000 evenly spaced rows, equal rows left out. `eps` 1e-6 gives the published numbers of platonic-rep, which depend on the scale
    of the features. Half precision is promoted; all sums are float64. Constant columns change nothing.
    Raises UsageError for rows that do not pair up, fewer than four rows (two where not debiased), rows that are all equal, or a
    kernel that sees none of their differences.
    """
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        require_pair(x, y, "paired", least=2)
    x, y = (side if isinstance(side, Gram) else gram(side, kernel, sigma) for side in (x, y))
    if len(x) != len(y):
        raise UsageError("the two do not describe the same samples", got=f"{len(x)} and {len(y)} rows", expected="one row of each for every sample")
    if len(x) < (least := 4 if debiased else 2):
        raise UsageError("too few samples for an alignment", got=f"{len(x)} rows", expected=f"at least {least}", next="give more samples")
    cross, of_x, of_y = inner(x, y)
    own = [_own(moments, name, debiased, eps) for name, moments in (("x", of_x), ("y", of_y))]
    return hsic(cross, of_x, of_y, debiased=debiased) / (float(np.sqrt(own[0]) * np.sqrt(own[1])) + eps)


def _own(moments: Moments, name: str, debiased: bool, eps: float) -> float:
    found, n = hsic(moments.square, moments, moments, debiased=debiased), len(moments.sums)
    scale = moments.square / (n * (n - 3)) if debiased else moments.square + float(moments.diagonal @ moments.diagonal)
    if found > ROUNDING * scale:
        return found
    if eps > 0:
        return 0.0
    raise UsageError(
        f"the kernel of {name} tells no two samples apart from the others",
        got=f"an own alignment of {found:.3g}",
        expected="similarities that differ by more than rounding",
        next="for rbf give a sigma near the distances, or sigma=None; look for rows that are equal or all orthogonal",
    )
