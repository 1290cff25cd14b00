"""Asset keys and groups: one group a model and one a study, which the lineage graph can fold."""

import re
from dataclasses import dataclass

import dagster as dg


def model_key(model: str) -> dg.AssetKey:
    """``model/<name>``."""
    return dg.AssetKey(["model", model])


def corpus_key(model: str) -> dg.AssetKey:
    """``corpus/<model>``: the text that a model file reads."""
    return dg.AssetKey(["corpus", model])


def model_group(model: str) -> str:
    """Group of a model, its text and its activations."""
    return "model_" + _identifier(model)


def observe_job_name(model: str) -> str:
    """Name of the job that looks at a model for new weights."""
    return "observe_" + _identifier(model)


def sensor_name(name: str) -> str:
    """Name of the sensor that makes what belongs to a model or a synthetic study anew."""
    return "automation_" + _identifier(name)


def activations_key(model: str, hook: str) -> dg.AssetKey:
    """``activations/<model>/<hook>``; dots of the module path become underscores."""
    return dg.AssetKey(["activations", model, _identifier(hook)])


@dataclass(frozen=True)
class StudyKeys:
    """The asset keys of one study."""

    study: str

    @property
    def group(self) -> str:
        """Group of all its assets."""
        return "study_" + _identifier(self.study)

    def _key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.study, name])

    @property
    def sae(self) -> dg.AssetKey:
        """Trained SAEs, variant x seed."""
        return self._key("sae")

    @property
    def consistency(self) -> dg.AssetKey:
        """Comparison of the seeds, by variant."""
        return self._key("consistency")

    @property
    def contexts(self) -> dg.AssetKey:
        """Where features fire, variant x seed."""
        return self._key("contexts")

    @property
    def explanations(self) -> dg.AssetKey:
        """Explanations of features, variant x seed."""
        return self._key("explanations")

    @property
    def scores(self) -> dg.AssetKey:
        """How far the explanations predict where features fire, variant x seed."""
        return self._key("explanation_scores")

    @property
    def similarity(self) -> dg.AssetKey:
        """Comparison of the explanations, by variant."""
        return self._key("explanation_similarity")

    @property
    def model_versions(self) -> dg.AssetKey:
        """Comparison of the versions of the model, by variant."""
        return self._key("model_versions")

    @property
    def report(self) -> dg.AssetKey:
        """The report of the study."""
        return self._key("report")


@dataclass(frozen=True)
class SyntheticKeys:
    """The asset keys of one synthetic study, and its group: one a study, for its experiments are the stages."""

    study: str

    @property
    def group(self) -> str:
        """Group of all its assets."""
        return _identifier(self.study)

    def experiment(self, name: str) -> dg.AssetKey:
        """Points of one experiment, by group where it has several."""
        return dg.AssetKey([self.study, name])

    @property
    def reproduction(self) -> dg.AssetKey:
        """The published numbers beside ours."""
        return dg.AssetKey([self.study, "reproduction"])


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", name)
