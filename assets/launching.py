"""Launch forms of the long assets: how a run does its work. What it makes stands in the study file alone."""

from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from sae_core.config import ModelConfig, StudyConfig


class Device(Enum):
    """Where tensors are; the names are those of the files."""

    as_in_the_file = "as_in_the_file"
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Watch(Enum):
    """Where the curves of a training can be watched."""

    tensorboard = "tensorboard"
    wandb = "wandb"


class SaeLaunch(dg.Config):
    """How SAEs are trained this time. Nothing here changes a result: left alone, all is as in the study file."""

    device: Device = Field(
        default=Device.as_in_the_file,
        description="Where to train: `cpu`, `cuda`, or `auto` for a GPU where there is one. "
        "`as_in_the_file`: `training.device` of the study.",
    )
    resume_minutes: float | None = Field(
        default=None,
        ge=0,
        description="Minutes between two states saved for resuming; a killed run loses at most so much. "
        "Empty: `training.resume_minutes` of the study.",
    )
    watch: list[Watch] | None = Field(
        default=None,
        description="`tensorboard` (in `<store>/tensorboard`) and `wandb` show the curves while training goes on. "
        "Empty: `training.watch` of the study; `[]`: none.",
    )

    def apply(self, study: StudyConfig) -> StudyConfig:
        """The study with these settings in place of its own."""
        if study.training is None:
            return study
        changes: dict[str, Any] = {}
        if self.device is not Device.as_in_the_file:
            changes["device"] = self.device.value
        if self.resume_minutes is not None:
            changes["resume_minutes"] = self.resume_minutes
        if self.watch is not None:
            changes["watch"] = [each.value for each in self.watch]
        return study.model_copy(update={"training": study.training.model_copy(update=changes)})


class ActivationsLaunch(dg.Config):
    """How activations are computed this time."""

    device: Device = Field(
        default=Device.as_in_the_file,
        description="Where the language model runs: `cpu`, `cuda`, or `auto` for a GPU where there is one. "
        "`as_in_the_file`: `device` of the model file.",
    )

    def apply(self, model: ModelConfig) -> ModelConfig:
        """The model with these settings in place of its own."""
        if self.device is Device.as_in_the_file:
            return model
        return model.model_copy(update={"device": self.device.value})
