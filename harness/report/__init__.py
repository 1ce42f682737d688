"""The report of a run: outcomes as data (`build`), as files (`files`), as a page (`html`) and as a job summary (`markdown`)."""

from harness.report._words import interval, number
from harness.report.html import style

__all__ = ["interval", "number", "style"]
