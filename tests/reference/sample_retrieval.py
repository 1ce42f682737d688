"""Sample retrieval by comparing every prediction with every target in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b)))


def sample_retrieval(predictions: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> float:
    right = 0
    for row, predicted in enumerate(predictions):
        best, best_similarity = -1, -math.inf
        for candidate, target in enumerate(targets):
            similarity = cosine(predicted, target)
            if similarity > best_similarity + 1e-11:
                best, best_similarity = candidate, similarity
        right += best == row
    return right / len(targets)
