"""Asset keys and groups: one group a stage, so that the lineage graph shows the flow."""

import re
from dataclasses import dataclass

import dagster as dg


def model_key(model: str) -> dg.AssetKey:
    """``model/<name>``."""
    return dg.AssetKey(["model", model])


def observe_job_name(model: str) -> str:
    """Name of the job that looks at a model for new weights."""
    return "observe_" + re.sub(r"[^A-Za-z0-9_]", "_", model)


def activations_key(model: str, hook: str) -> dg.AssetKey:
    """``activations/<model>/<hook>``; dots of the module path become underscores."""
    return dg.AssetKey(["activations", model, re.sub(r"[^A-Za-z0-9_]", "_", hook)])


@dataclass(frozen=True)
class StudyKeys:
    """The asset keys of one study."""

    study: str

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
    def explanations(self) -> dg.AssetKey:
        """Explanations of features, variant x seed."""
        return self._key("explanations")

    @property
    def similarity(self) -> dg.AssetKey:
        """Comparison of the explanations, by variant."""
        return self._key("explanation_similarity")

    @property
    def report(self) -> dg.AssetKey:
        """The report of the study."""
        return self._key("report")
