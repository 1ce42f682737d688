"""The report of a run: outcomes as data (`build`), as files (`files`), as a page (`html`) and as a job summary (`markdown`)."""
