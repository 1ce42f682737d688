"""Do the poolings obey their identities on this model's own activations?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from harness import pooling as poolings
from harness.contract._compare import host, relative_difference
from harness.errors import UnknownNameError
from harness.types import Array, Measurement, Point, Recording, TokenMap

__all__ = ["pooling"]


def pooling(recording: Recording, *, identity: str) -> Measurement:
    """Largest relative violation of one identity over the last point of every stack; 0 when it holds exactly."""
    if identity not in IDENTITIES:
        raise UnknownNameError("pooling identity", identity, IDENTITIES)
    points = {point.stack: point for point in recording.values}.values()
    found = {point: IDENTITIES[identity](recording.values[point], recording.batch.tokens[point.stack]) for point in points}
    worst: Point = max(found, key=found.__getitem__)
    return Measurement(found[worst], detail=f"worst of {len(found)} stacks: {worst}")


def _all_ones(values: Array, tokens: TokenMap) -> float:
    """With every token valid, the masked mean is the plain mean."""
    every = tokens.mask | ~tokens.mask
    return relative_difference(_pooled("mean", values, TokenMap(every, {})), host(values).mean(1))


def _padding_content(values: Array, tokens: TokenMap) -> float:
    """What stands at padded positions never matters, NaN included."""
    spoiled = host(values).astype(np.float32)
    spoiled[~host(tokens.mask).astype(bool)] = np.nan
    worst = 0.0
    for kind in poolings.POOLINGS:
        clean = _pooled(kind, values, tokens)
        worst = max(worst, relative_difference(_pooled(kind, _like(values, spoiled), tokens), clean))
    return worst


def _unpadded(values: Array, tokens: TokenMap) -> float:
    """The mean of a padded row is the mean of its valid tokens, taken one row at a time without any mask."""
    mask = host(tokens.mask).astype(bool)
    return relative_difference(_pooled("mean", values, tokens), np.stack([row[kept].mean(0) for row, kept in zip(host(values), mask, strict=True)]))


def _last_token(values: Array, tokens: TokenMap) -> float:
    """The last token is the last valid one, not the last position of a padded row."""
    mask = host(tokens.mask).astype(bool)
    return relative_difference(_pooled("last", values, tokens), np.stack([row[kept][-1] for row, kept in zip(host(values), mask, strict=True)]))


def _union(values: Array, tokens: TokenMap) -> float:
    """The mean over all valid tokens is the mean of the span means, weighted by the spans' sizes in each row."""
    sizes = {name: host(span & tokens.mask).sum(1) for name, span in tokens.spans.items()}
    kept = [name for name, size in sizes.items() if size.min() > 0]
    means = {name: host(_pooled(f"mean:{name}", values, tokens)) for name in kept}
    weighted = sum(means[name] * sizes[name][:, None] for name in kept) / sum(sizes[name] for name in kept)[:, None]
    return relative_difference(_pooled(f"mean:{'+'.join(kept)}", values, tokens), weighted)


def _homogeneous(values: Array, tokens: TokenMap) -> float:
    """Scaling the activations scales the pooled row, up to massive ones (largest magnitude 1e6)."""
    factor = 1e6 / np.abs(host(values)).max()
    return relative_difference(_pooled("mean", values * factor, tokens), host(_pooled("mean", values, tokens)) * factor)


def _pooled(kind: str, values: Array, tokens: TokenMap) -> Array:
    weights = poolings.token_weights(kind, tokens)
    return poolings.pool(values, weights.to(values.device) if hasattr(values, "device") and hasattr(weights, "to") else weights)


def _like(values: Array, changed: np.ndarray) -> Array:
    return values.new_tensor(changed) if hasattr(values, "new_tensor") else changed


IDENTITIES: Mapping[str, Callable[[Array, TokenMap], float]] = {
    "all_ones": _all_ones,
    "padding_content": _padding_content,
    "unpadded": _unpadded,
    "last_token": _last_token,
    "union": _union,
    "homogeneous": _homogeneous,
}
