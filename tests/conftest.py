"""Options of the harness's own tests; array shapes of every metric are checked against its annotations."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("harness.metrics", "beartype.beartype")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--packs", metavar="DIR", type=Path, help="parity packs DIR/<family>/<case> to test instead of the known ones")
