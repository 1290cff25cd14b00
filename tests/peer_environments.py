"""Environments of their own for packages that pin what we do not: installed on the first run, kept afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parent.parent / ".concord" / "peers"


def python_with(name, *packages):
    """The Python of the environment ``name``, which holds these packages; the test is skipped where they cannot be had.
    A package may have options of pip before its name (``--no-deps package``).

    ``<NAME>_PYTHON`` (``SAE_LENS_PYTHON``) names one that is there already.
    """
    variable = f"{name.upper()}_PYTHON"
    if python := os.environ.get(variable):
        return python
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for package in packages:
            if subprocess.run([python, "-m", "pip", "install", "--quiet", *package.split()], check=False).returncode:
                pytest.skip(f"{package} cannot be installed here; name an environment that has it in {variable}")
        (folder / "installed").touch()
    return str(python)
