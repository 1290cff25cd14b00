"""What all assets of a model or a study have in common: group, tags, owners, pool, automation."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import dagster as dg

from assets.automation import automation_condition, strongest
from assets.keys import StudyKeys, SyntheticKeys, model_group
from assets.stale_statuses import OPTIONAL
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
    automation_condition: dg.AutomationCondition | None
    metadata: NotRequired[dict[str, Any]]


def model_options(config: ModelConfig, studies: Sequence[StudyConfig] = ()) -> Options:
    """Arguments of ``dg.asset`` for what is read from a model.

    Args:
        studies: those that read it; the one that makes the most by itself decides.
    """
    reports = [StudyKeys(study.name).report for study in studies if study.automation != "manual"]
    return {
        "group_name": model_group(config.name),
        "tags": {"model": config.name},
        "owners": list(config.owners),
        "pool": Pool.LANGUAGE_MODEL.value,
        "automation_condition": automation_condition(strongest([study.automation for study in studies]), reports),
    }


def study_options(study: StudyConfig, pool: Pool) -> Options:
    """Arguments of ``dg.asset`` for a stage of a study."""
    keys = StudyKeys(study.name)
    return {
        "group_name": keys.group,
        "tags": {"study": study.name},
        "owners": list(study.owners),
        "pool": pool.value,
        "automation_condition": automation_condition(study.automation, [keys.report]),
    }


def synthetic_options(study: SyntheticStudyConfig, optional: Sequence[dg.AssetKey] = ()) -> Options:
    """Arguments of ``dg.asset`` for an asset of a synthetic study.

    Args:
        optional: dependencies it is made without where they are not there.
    """
    keys = SyntheticKeys(study.name)
    return {
        "group_name": keys.group,
        "tags": {"study": study.name},
        "owners": list(study.owners),
        "pool": Pool.TRAINING.value,
        "automation_condition": automation_condition(study.automation, [keys.reproduction], optional),
        "metadata": {OPTIONAL: [key.to_user_string() for key in optional]} if optional else {},
    }
