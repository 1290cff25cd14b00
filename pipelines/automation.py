"""The sensors that make studies anew by themselves: one a model, with the studies that read it; one a synthetic study.

One a model, as each looks at every partition it watches in each of its ticks, a hundredth of a second for each.
"""

import os
from collections.abc import Iterable

import dagster as dg

from assets.keys import activations_key, sensor_name
from assets.models import sources
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

_INTERVAL_S = 30


def automation_definitions(
    models: Iterable[ModelConfig], studies: Iterable[StudyConfig], synthetic: Iterable[SyntheticStudyConfig]
) -> dg.Definitions:
    """A sensor for each model and synthetic study of which anything is made by itself; they are on by default."""
    active = [study for study in studies if study.automation != "manual"]
    sensors = [
        _sensor(model.name, _watched(model, readers))
        for model in models
        if (readers := [study for study in active if study.model == model.name])
    ]
    sensors += [
        _sensor("synthetic_" + study.name, dg.AssetSelection.key_prefixes([study.name]))
        for study in synthetic
        if study.automation != "manual"
    ]
    return dg.Definitions(sensors=sensors)


def interval_s() -> int:
    """Seconds from one look to the next, at least: ``SAE_CONCORD_TICK_S``, or 30."""
    return int(os.environ.get("SAE_CONCORD_TICK_S", _INTERVAL_S))


def _watched(model: ModelConfig, studies: list[StudyConfig]) -> dg.AssetSelection:
    """The model, its text, the activations that the studies read, and all assets of the studies."""
    hooks = dict.fromkeys(study.hook for study in studies)
    shared = dg.AssetSelection.assets(*sources(model), *(activations_key(model.name, hook) for hook in hooks))
    return shared | dg.AssetSelection.key_prefixes(*([study.name] for study in studies))


def _sensor(name: str, watched: dg.AssetSelection) -> dg.AutomationConditionSensorDefinition:
    return dg.AutomationConditionSensorDefinition(
        sensor_name(name),
        target=watched,
        # The conditions are our own classes, which the daemon does not know; and definitions load where they are.
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=interval_s(),
        run_tags={"sae_concord/launched_by": "automation"},
        description="Makes anew what is out of date, as the study files say (docs/automation.md).",
    )
