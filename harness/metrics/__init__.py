"""One module per metric, each exporting one pure function of feature arrays."""

from harness.metrics._base import Comparison, comparison, paired, require_pair, two_sample

__all__ = ["Comparison", "comparison", "paired", "require_pair", "two_sample"]
