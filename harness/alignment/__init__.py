"""How close representations are: models against one reference, and the layers of two models against each other."""

from harness.alignment._episodes import Episodes, read_episodes
from harness.alignment._json import as_json, as_table
from harness.alignment._layers import LayerMap, align_layers
from harness.alignment._measure import Draws
from harness.alignment._page import layers_json, layers_table, page
from harness.alignment._plots import layers_png, scores_png
from harness.alignment._points import Points, open_points
from harness.alignment._rows import Rows, open_rows
from harness.alignment._table import Aligned, Alignment, align

__all__ = [
    "Aligned",
    "Alignment",
    "Draws",
    "Episodes",
    "LayerMap",
    "Points",
    "Rows",
    "align",
    "align_layers",
    "as_json",
    "as_table",
    "layers_json",
    "layers_png",
    "layers_table",
    "open_points",
    "open_rows",
    "page",
    "read_episodes",
    "scores_png",
]
