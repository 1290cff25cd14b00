"""Shared by all tests: one thread for tiny tensors, shapes checked, no network."""

import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
import torch
from jaxtyping import install_import_hook

# Every public function checks the shapes its types promise, in tests only.
_HOOK = install_import_hook("sae_core", "beartype.beartype")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny tensors are several times faster on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def saelens_python():
    """A Python with SAELens."""
    from tests.peer_environments import python_with

    return python_with("sae_lens", "torch==2.13.0", "sae-lens==6.54.12")


@pytest.fixture(scope="session")
def dictionary_learning_python():
    """A Python with dictionary_learning."""
    from tests.peer_environments import python_with

    return python_with("dictionary_learning", "torch==2.13.0", "dictionary-learning==0.1.0")


@pytest.fixture
def store(tmp_path):
    from sae_core.store import ArtifactStore

    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def instance():
    """A Dagster instance in memory."""
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def quiet_dagster():
    """Without its log lines, for tests in which many runs fail on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
