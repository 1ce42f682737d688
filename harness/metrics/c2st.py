"""Classifier two-sample test: how well a held-out row tells which sample it comes from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from harness.errors import UsageError
from harness.metrics._base import require_pair, two_sample

__all__ = ["c2st"]


class Separation(NamedTuple):
    """Mean over folds of the area under the ROC curve, in [0, 1] with chance 0.5; mean balanced accuracy; the area of each fold."""

    value: float
    accuracy: float
    folds: Float[np.ndarray, "k"]


@two_sample(identical=0.5)
def c2st(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    *,
    folds: int = 5,
    components: int = 64,
    products: int = 16,
    penalty: float = 100.0,
    pairs: bool = False,
    seed: int = 0,
) -> Separation:
    """Area under the ROC curve of a logistic regression on held-out rows: 0.5 when nothing moved, 1 when the samples separate.

    Lopez-Paz and Oquab (2017), with the area instead of accuracy, because its chance is 0.5 at unequal n too. Within each training fold:
    features standardised, projected on at most `components` principal components, and those whitened; added are squares and products of
    the first `products` components, without which (0) a linear classifier sees means only. Drift outside the kept components is
    missed. `penalty` is the weight of the squared coefficients (sklearn's 1 / C).
    `pairs` for row i of x and row i of y computed from one sample: both fall into the same fold, and a set and itself score exactly 0.5.
    Without it the classifier is trained on the twin of a held-out row under the other label, and copies score below 0.5.

    Fits `folds` classifiers: about ten seconds at 5000 + 5000 rows of 2048 on one core, so ask for few permutations.
    Chance is 0.5 on average at any n and m, with a standard deviation near sqrt((1/n + 1/m) / 12). Under a difference the value grows with
    the rows to learn from: compare at equal n.
    Raises UsageError for fewer than two folds, fewer than two rows of each sample a fold, an option out of range, unequal widths,
    NaN or infinity, `pairs` with unequal n.
    """
    require_pair(x, y, "two_sample")
    if folds < 2 or components < 1 or products < 0 or not penalty > 0:
        options = f"{folds=}, {components=}, {products=}, {penalty=}"
        raise UsageError("not a classifier", got=options, expected="folds >= 2, components >= 1, products >= 0, penalty > 0")
    if min(len(x), len(y)) < 2 * folds:
        raise UsageError("too few rows to hold out", got=f"{len(x)} and {len(y)} rows", expected=f"at least {2 * folds} of each for {folds} folds")
    if pairs and len(x) != len(y):
        got, expected = f"{len(x)} and {len(y)} rows", "row i of x and row i of y from one sample"
        raise UsageError("rows do not come in pairs", got=got, expected=expected, next="leave pairs out where the samples differ")
    rng = np.random.default_rng(seed)
    of_x = _dealt(rng, len(x), folds)
    of_y = of_x if pairs else _dealt(rng, len(y), folds)
    rows, label, fold = np.concatenate([x, y]).astype(np.float64), np.repeat([0, 1], [len(x), len(y)]), np.concatenate([of_x, of_y])
    scores = np.array([_held_out(rows, label, fold == test, components, products, penalty) for test in range(folds)])
    area, accuracy = scores.mean(0)
    return Separation(float(area), float(accuracy), scores[:, 0])


def _dealt(rng: np.random.Generator, n: int, folds: int) -> Int[np.ndarray, "n"]:
    return rng.permutation(np.arange(n) % folds)


def _held_out(rows: np.ndarray, label: np.ndarray, test: np.ndarray, components: int, products: int, penalty: float) -> tuple[float, float]:
    """Area and balanced accuracy on the rows of `test`."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    keep = min(components, rows.shape[1], (~test).sum() - 1)
    model = make_pipeline(
        StandardScaler(),
        PCA(keep, random_state=0),
        StandardScaler(),
        FunctionTransformer(_with_products, kw_args={"first": products}),
        StandardScaler(),
        LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000),
    )
    score = model.fit(rows[~test], label[~test]).decision_function(rows[test])
    return float(roc_auc_score(label[test], score)), float(balanced_accuracy_score(label[test], score > 0))


def _with_products(rows: np.ndarray, *, first: int) -> np.ndarray:
    left, right = np.triu_indices(min(first, rows.shape[1]))
    return np.hstack([rows, rows[:, left] * rows[:, right]])
