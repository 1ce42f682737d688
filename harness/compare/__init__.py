"""Two checkpoints on the same samples: what moved, where first, in which way, and whether that is more than noise."""

from harness.compare._page import as_json, write
from harness.compare._point import PointDrift, point_drift
from harness.compare._probe import ProbeDrift
from harness.compare._run import Drift, compare, drift
from harness.compare._sides import Place, Side
from harness.compare._verdict import NOISE, Verdict
from harness.compare._weights import WeightDrift, weight_drift

__all__ = ["NOISE", "Drift", "Place", "PointDrift", "ProbeDrift", "Side", "Verdict", "WeightDrift", "as_json", "compare", "drift", "point_drift", "weight_drift", "write"]
