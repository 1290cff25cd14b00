"""What all assets of a model or a study have in common: group, tags, owners, pool, retries, automation."""

from enum import StrEnum
from typing import TypedDict

from assets.keys import StudyKeys, SyntheticKeys, model_group
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig


class Pool(StrEnum):
    """Runs of one pool wait for each other as far as its limit says (``concurrency`` in dagster.yaml)."""

    LANGUAGE_MODEL = "language_model"
    """A language model or an embedder is in memory."""
    TRAINING = "training"
    MEASURING = "measuring"


class Options(TypedDict):
    """Arguments of ``dg.asset``."""

    group_name: str
    tags: dict[str, str]
    owners: list[str]
    pool: str


def model_options(config: ModelConfig) -> Options:
    """Arguments of ``dg.asset`` for what is read from a model."""
    return {
        "group_name": model_group(config.name),
        "tags": {"model": config.name},
        "owners": list(config.owners),
        "pool": Pool.LANGUAGE_MODEL.value,
    }


def study_options(study: StudyConfig, pool: Pool) -> Options:
    """Arguments of ``dg.asset`` for a stage of a study."""
    return {
        "group_name": StudyKeys(study.name).group,
        "tags": {"study": study.name},
        "owners": list(study.owners),
        "pool": pool.value,
    }


def synthetic_options(study: SyntheticStudyConfig) -> Options:
    """Arguments of ``dg.asset`` for an asset of a synthetic study."""
    return {
        "group_name": SyntheticKeys(study.name).group,
        "tags": {"study": study.name},
        "owners": list(study.owners),
        "pool": Pool.TRAINING.value,
    }
