"""Two checkpoints on the same samples: what moved, where first, in which way, and whether that is more than noise."""

from harness.compare._drift import Comparison, Drift
from harness.compare._page import as_json, write
from harness.compare._point import LEAST, NOISE, PointDrift, point_drift
from harness.compare._probe import ProbeDrift
from harness.compare._run import compare, drift
from harness.compare._sides import Pair, Place, Side
from harness.compare._verdict import Verdict
from harness.compare._weights import WeightDrift, weight_drift

__all__ = [
    "LEAST",
    "NOISE",
    "Comparison",
    "Drift",
    "Pair",
    "Place",
    "PointDrift",
    "ProbeDrift",
    "Side",
    "Verdict",
    "WeightDrift",
    "as_json",
    "compare",
    "drift",
    "point_drift",
    "weight_drift",
    "write",
]
