"""What a dataset holds, which samples of it to take, and how many of them a statistic needs."""

from harness.sampling._interval import Interval, interval_width
from harness.sampling._page import page
from harness.sampling._plan import Plan, Stratum, plan
from harness.sampling._plan_file import load_plan
from harness.sampling._size import Precision, design_effect, precision, required_n
from harness.sampling._stats import Stats, stats
from harness.sampling._tables import Table, as_json, tables

__all__ = [
    "Interval",
    "Plan",
    "Precision",
    "Stats",
    "Stratum",
    "Table",
    "as_json",
    "design_effect",
    "interval_width",
    "load_plan",
    "page",
    "plan",
    "precision",
    "required_n",
    "stats",
    "tables",
]
