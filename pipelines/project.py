"""Where things lie: the project folder, Dagster's home, the store; and the files that users wrote."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.components import LanguageModel, Study, SyntheticStudy, model_of, refuse_equal_names
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

ROOT = Path(__file__).resolve().parent.parent


def dagster_home() -> Path:
    """``DAGSTER_HOME``, or ``.concord/dagster`` in the project; made on first use."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(ROOT / ".concord" / "dagster")))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(ROOT / "pipelines" / "dagster.yaml", home / "dagster.yaml")
    return home


@dataclass(frozen=True)
class ProjectFiles:
    """What the YAML files define, by name."""

    studies: dict[str, tuple[StudyConfig, ModelConfig]]
    """Studies on a language model, each with its model."""
    synthetic: dict[str, SyntheticStudyConfig]


def project_files() -> ProjectFiles:
    """Every study of the YAML files.

    Raises:
        ValueError: if two have the same name, or the model of one is not there.
    """
    tree = dg.ComponentTree.for_project(ROOT)
    models = [component.config for component in tree.get_all_components(LanguageModel)]
    studies = [component.config for component in tree.get_all_components(Study)]
    synthetic = [component.config for component in tree.get_all_components(SyntheticStudy)]
    refuse_equal_names([study.name for study in studies] + [study.name for study in synthetic])
    return ProjectFiles(
        studies={study.name: (study, model_of(study, models)) for study in studies},
        synthetic={study.name: study for study in synthetic},
    )
