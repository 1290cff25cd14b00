"""What users write in YAML: a language model, a study, a synthetic study. The config models are the schema."""

from collections.abc import Sequence
from typing import Self

import dagster as dg
from dagster.components import Component, ComponentLoadContext
from pydantic import BaseModel

from assets.activations import activations_asset
from assets.checks import in_store_checks
from assets.consistency import consistency_asset
from assets.contexts import contexts_asset
from assets.explanations import explanations_asset
from assets.keys import observe_job_name
from assets.model_versions import model_versions_asset
from assets.models import corpus_asset, model_asset, sources
from assets.reports import report_asset
from assets.reproduction import reproduction_asset
from assets.saes import sae_asset
from assets.scores import scores_asset
from assets.similarity import similarity_asset
from assets.synthetic import experiment_asset
from sae_core.config import ModelConfig, StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig


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
        studies = [component.config for component in context.component_tree.get_all_components(Study)]
        return model_definitions(self.config, studies)


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


class SyntheticStudy(Component):
    """Experiments on data whose true features are known, and one page of what came out."""

    def __init__(self, config: SyntheticStudyConfig):
        self.config = config

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The schema of the file."""
        return SyntheticStudyConfig

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> Self:
        """From the checked content of the file."""
        assert isinstance(attributes, SyntheticStudyConfig)
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> dg.Definitions:
        """The assets of the study."""
        studies = [component.config for component in context.component_tree.get_all_components(Study)]
        return synthetic_definitions(self.config, language_model_study_of(self.config, studies))


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


def language_model_study_of(synthetic: SyntheticStudyConfig, studies: list[StudyConfig]) -> StudyConfig | None:
    """The study whose results a synthetic study shows too; None where it names none.

    Raises:
        ValueError: if there is none of that name.
    """
    name = synthetic.language_model_study
    found = [study for study in studies if study.name == name]
    if name is not None and not found:
        known = ", ".join(sorted(study.name for study in studies)) or "none"
        raise ValueError(
            f"study {synthetic.name}: there is no study {name!r} to show; the study files define {known}; correct "
            "`language_model_study`, or leave it out"
        )
    return found[0] if found else None


def model_definitions(config: ModelConfig, studies: Sequence[StudyConfig] = ()) -> dg.Definitions:
    """Assets of a model file.

    Args:
        studies: all of the project; those that read the model decide whether it is looked at by itself.
    """
    readers = {
        hook: [study for study in studies if (study.model, study.hook) == (config.name, hook)] for hook in config.hooks
    }
    automated = any(study.automation != "manual" for readers_of in readers.values() for study in readers_of)
    observe = dg.define_asset_job(
        observe_job_name(config.name),
        selection=dg.AssetSelection.assets(*sources(config)),
        description=f"Look at {config.name} for new weights, and for another text.",
    )
    activations = [activations_asset(config, hook, readers[hook]) for hook in config.hooks]
    status = dg.DefaultScheduleStatus.RUNNING if automated else dg.DefaultScheduleStatus.STOPPED
    return dg.Definitions(
        assets=[model_asset(config, automated), corpus_asset(config, automated), *activations],
        asset_checks=in_store_checks(activations),
        jobs=[observe],
        # Where nothing is made by itself it is off until it is switched on: a laptop need not look every hour.
        schedules=[dg.ScheduleDefinition(job=observe, cron_schedule=config.observe_cron, default_status=status)],
    )


def study_definitions(study: StudyConfig, model: ModelConfig) -> dg.Definitions:
    """Assets of a study file."""
    assets = [
        sae_asset(study, model),
        consistency_asset(study),
        contexts_asset(study, model),
        explanations_asset(study, model),
        scores_asset(study, model),
        similarity_asset(study),
        model_versions_asset(study),
        report_asset(study, model),
    ]
    return dg.Definitions(assets=assets, asset_checks=in_store_checks(assets))


def synthetic_definitions(study: SyntheticStudyConfig, language_model: StudyConfig | None) -> dg.Definitions:
    """Assets of a synthetic study file.

    Args:
        language_model: the study whose results stand in the reproduction too, where there is one.
    """
    experiments = [experiment_asset(study, experiment) for experiment in study.experiments]
    assets = [*experiments, reproduction_asset(study, language_model)]
    return dg.Definitions(assets=assets, asset_checks=in_store_checks(assets))
