"""Every parity pack: the adapter of its family computes what upstream's own code computed from the same checkpoint and inputs.

`pytest tests/parity` takes the packs of `../shared/goldens` and those that this repository ships; `--packs DIR` takes those
of any other folder `DIR/<family>/<case>` in the same layout.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cards, subjects
from harness.adapters import Adapter
from harness.contract.detokenisation import detokenisation
from harness.contract.loaded import loaded
from harness.contract.parity import parity
from harness.contract.preprocessing import preprocessing
from harness.types import Runtime

ROOT = Path(__file__).resolve().parents[2]
PICTURES = "image.0"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pack" not in metafunc.fixturenames:
        return
    names = ["pack", "tensor"] if "tensor" in metafunc.fixturenames else ["pack"]
    params = []
    for pack in _packs(metafunc.config.getoption("--packs")):
        if (family := _description(pack)["family"]) not in cards.model_cards():
            skip = pytest.mark.skip(reason=f"family {family} has no adapter yet")
            params.append(pytest.param(*[pack, "*"][: len(names)], id=_id(pack), marks=skip))
        elif len(names) == 1:
            params.append(pytest.param(pack, id=_id(pack)))
        else:
            params += [pytest.param(pack, tensor, id=f"{_id(pack)}-{tensor}") for tensor in _names(pack, "expected")]
    metafunc.parametrize(names, params, scope="module")


@pytest.fixture(scope="module")
def adapter(pack: Path) -> Adapter:
    """The pack's checkpoint, loaded by the card that has its family's name."""
    description = _description(pack)
    subject = subjects.resolve(f"{description['family']}:checkpoint", checkpoint=pack / "checkpoint")
    return subjects.load(subject, Runtime(dtype=description["dtype"], attention=description["attention"]))


def test_a_tensor_is_upstream_s(pack: Path, adapter: Adapter, tensor: str, record_property) -> None:  # noqa: ANN001
    found = parity(adapter, pack, tensors=tensor)
    record_property("tolerances", found.value)
    assert found.value <= 1, f"{tensor} differs by {found.value:.3g} times the pack's tolerance"


def test_every_parameter_is_the_checkpoint_s(pack: Path, adapter: Adapter) -> None:
    assert loaded(adapter).value == 0


def test_pictures_become_upstream_s_pixels(pack: Path, adapter: Adapter) -> None:
    if PICTURES not in _names(pack, "inputs"):
        pytest.skip("the pack holds no pictures")
    assert preprocessing(adapter, pack).value <= 1e-6


def test_action_tokens_become_upstream_s_actions(pack: Path, adapter: Adapter) -> None:
    if not (pack / "actions.json").exists():
        pytest.skip("the pack holds no action tokens")
    assert detokenisation(adapter, pack).value <= 1e-6


def test_packs_are_there(request: pytest.FixtureRequest) -> None:
    given = request.config.getoption("--packs")
    assert _packs(given), f"no <family>/<case>/pack.json under {given or '../shared/goldens and fixtures/data'}"


def _packs(given: Path | None) -> list[Path]:
    """Folders that hold a pack.json: those of DIR, else the shared goldens' (where they are) and the shipped ones."""
    folders = sorted(given.glob("*/*/pack.json")) if given else [*sorted((ROOT.parent / "shared" / "goldens").glob("*/*/pack.json")), *sorted((ROOT / "fixtures/data").glob("*/pack.json"))]
    return [path.parent for path in folders]


def _description(pack: Path) -> dict[str, str]:
    return json.loads((pack / "pack.json").read_text(encoding="utf-8"))


def _id(pack: Path) -> str:
    return f"{pack.parent.name}/{pack.name}"


def _names(pack: Path, kind: str) -> list[str]:
    """Names of a pack's arrays, from the header of its safetensors or npz file."""
    if (path := pack / f"{kind}.safetensors").exists():
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            return sorted(file.keys())
    import numpy as np

    with np.load(pack / f"{kind}.npz") as file:
        return sorted(file.files)
