"""Where things lie: the project folder, Dagster's home, the store; and the files that users wrote."""

import os
import shutil
from pathlib import Path

import dagster as dg

from assets.components import LanguageModel, Study, model_of
from sae_core.config import ModelConfig, StudyConfig

ROOT = Path(__file__).resolve().parent.parent


def dagster_home() -> Path:
    """``DAGSTER_HOME``, or ``.concord/dagster`` in the project; made on first use."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(ROOT / ".concord" / "dagster")))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(ROOT / "pipelines" / "dagster.yaml", home / "dagster.yaml")
    return home


def study_files() -> dict[str, tuple[StudyConfig, ModelConfig]]:
    """Every study with its model, by name, from the YAML files."""
    tree = dg.ComponentTree.for_project(ROOT)
    models = [component.config for component in tree.get_all_components(LanguageModel)]
    studies = [component.config for component in tree.get_all_components(Study)]
    return {study.name: (study, model_of(study, models)) for study in studies}
