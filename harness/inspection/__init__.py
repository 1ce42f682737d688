"""What a checkpoint holds and whether its family can load it, from the headers of its files; and how two of them differ."""

from harness.inspection._difference import Difference, compare
from harness.inspection._inspect import Content, Fit, Inspection, Part, Stored, inspect
from harness.inspection._tables import Table, as_json, tables

__all__ = ["Content", "Difference", "Fit", "Inspection", "Part", "Stored", "Table", "as_json", "compare", "inspect", "tables"]
