"""Projects of their own for tests against real servers."""

from pathlib import Path

import pytest

from tests.live.world import TinyProject


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is ``live``: it needs ports, a browser or a database, and minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)


@pytest.fixture
def project(tmp_path):
    """One tiny project for a test."""
    return TinyProject(tmp_path)
