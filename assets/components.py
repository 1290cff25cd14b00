"""What users write in YAML: a language model, a study. The config models are the schema of the files."""

from typing import Self

import dagster as dg
from dagster.components import Component, ComponentLoadContext
from pydantic import BaseModel

from assets.activations import activations_asset
from assets.consistency import consistency_asset
from assets.explanations import explanations_asset
from assets.keys import model_key, observe_job_name
from assets.models import model_asset
from assets.reports import report_asset
from assets.saes import sae_asset
from assets.similarity import similarity_asset
from sae_core.config import ModelConfig, StudyConfig


class LanguageModel(Component):
    """A language model, the text it reads, and the hook points whose activations are wanted."""

    def __init__(self, config: ModelConfig):
        self.config = config

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of the file."""
        return ModelConfig

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> Self:
        """From the checked content of the file."""
        assert isinstance(attributes, ModelConfig)
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> dg.Definitions:
        """The observable model and its activations."""
        return model_definitions(self.config)


class Study(Component):
    """Variants x seeds of SAEs on one set of activations, and the comparison of the seeds."""

    def __init__(self, config: StudyConfig):
        self.config = config

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of the file."""
        return StudyConfig

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> Self:
        """From the checked content of the file."""
        assert isinstance(attributes, StudyConfig)
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> dg.Definitions:
        """The assets of the study.

        Raises:
            ValueError: if no model file has the name and hook that the study names.
        """
        models = [component.config for component in context.component_tree.get_all_components(LanguageModel)]
        return study_definitions(self.config, model_of(self.config, models))


def model_of(study: StudyConfig, models: list[ModelConfig]) -> ModelConfig:
    """The model file that a study names.

    Raises:
        ValueError: if there is none, or it does not have the hook of the study.
    """
    for model in models:
        if model.name == study.model:
            if study.hook not in model.hooks:
                raise ValueError(
                    f"study {study.name}: model {model.name} has no hook {study.hook!r}; its file names "
                    f"{', '.join(model.hooks)}; add the hook to the `hooks` of the model file or correct the study"
                )
            return model
    raise ValueError(
        f"study {study.name}: there is no model {study.model!r}; the model files define "
        f"{', '.join(sorted(model.name for model in models)) or 'none'}; add pipelines/defs/models/<name>/defs.yaml"
    )


def model_definitions(config: ModelConfig) -> dg.Definitions:
    """Assets of a model file."""
    observe = dg.define_asset_job(
        observe_job_name(config.name),
        selection=dg.AssetSelection.assets(model_key(config.name)),
        description=f"Look at {config.name} for new weights.",
    )
    return dg.Definitions(
        assets=[model_asset(config), *(activations_asset(config, hook) for hook in config.hooks)],
        jobs=[observe],
        # Off until it is switched on in the UI: a laptop need not look every hour.
        schedules=[dg.ScheduleDefinition(job=observe, cron_schedule=config.observe_cron)],
    )


def study_definitions(study: StudyConfig, model: ModelConfig) -> dg.Definitions:
    """Assets of a study file."""
    return dg.Definitions(
        assets=[
            sae_asset(study, model),
            consistency_asset(study),
            explanations_asset(study, model),
            similarity_asset(study),
            report_asset(study, model),
        ]
    )
