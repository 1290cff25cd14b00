"""What a report is made of: the records of each variant, read from its artifacts, and the table of variants.

Part of *report*, the last stage of the flow.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float
from pydantic import ConfigDict

from sae_core.config import PretrainedConfig, StudyConfig, VariantConfig
from sae_core.consistency.activation_matching import ActivationAgreement
from sae_core.consistency.results import ConsistencySummary
from sae_core.evaluation import EvaluationSummary
from sae_core.explainer_labels import explainer_labels
from sae_core.model_versions.results import VersionsSummary
from sae_core.scoring.results import ScoresSummary
from sae_core.similarity.results import MeasureSummary, SimilaritySummary
from sae_core.store import Artifact

Read = TypeVar("Read")


class RunEvaluation(EvaluationSummary):
    """What the report reads of ``evaluation.json`` of one run; more may stand there."""

    model_config = ConfigDict(extra="ignore")

    loss_recovered: float | None
    ce_clean: float | None
    ce_patched: float | None
    ce_zero: float | None
    n_loss_tokens: int | None


class PairActivations(ActivationAgreement):
    """What the report reads of ``activations.json`` of one pair of runs; more may stand there."""

    model_config = ConfigDict(extra="ignore")

    run_a: str
    run_b: str


@dataclass(frozen=True)
class ConsistencyRecord:
    """A *consistency* artifact."""

    summary: ConsistencySummary
    pairs: pa.Table
    features: pa.Table
    core_curve: pa.Table | None
    """Size of the stable core by threshold and number of seeds; None when it was not measured."""
    over_training: pa.Table | None
    """PW-MCC by training step; None when the runs kept no checkpoints in common."""
    activations: list[PairActivations]
    """Whether matched features fire alike on the same tokens, for each pair of runs; empty when not measured."""

    @classmethod
    def read(cls, folder: Path) -> "ConsistencyRecord":
        """Read an artifact folder."""
        activations = folder / "activations.json"
        return cls(
            ConsistencySummary.model_validate_json((folder / "summary.json").read_text()),
            pq.read_table(folder / "pairs.parquet"),
            pq.read_table(folder / "features.parquet"),
            _optional_table(folder / "core_curve.parquet"),
            _optional_table(folder / "over_training.parquet"),
            [PairActivations.model_validate(pair) for pair in json.loads(activations.read_text())]
            if activations.is_file()
            else [],
        )

    @property
    def null(self) -> float:
        """The chance level of PW-MCC: the sign-flip null, or without it that of random directions."""
        return self.summary.null_isotropic if self.summary.null_sign_flip is None else self.summary.null_sign_flip

    @property
    def kappa(self) -> float | None:
        """PW-MCC corrected for that chance level; None where chance alone gives 1."""
        found = self.summary
        return found.kappa_isotropic if found.null_sign_flip is None else found.kappa_sign_flip

    def pair_values(self, column: str) -> Float[np.ndarray, "runs others"]:
        """A column of the pairs of runs as a symmetric matrix in the order of the runs; nan on the diagonal."""
        places = {name: place for place, name in enumerate(self.summary.runs)}
        values = np.full((len(places), len(places)), np.nan)
        for row in self.pairs.select(["run_a", "run_b", column]).to_pylist():
            a, b, value = places[row["run_a"]], places[row["run_b"]], row[column]
            values[a, b] = values[b, a] = np.nan if value is None else value
        return values


@dataclass(frozen=True)
class SimilarityRecord:
    """An *explanation similarity* artifact."""

    summary: SimilaritySummary
    pairs: pa.Table

    @classmethod
    def read(cls, folder: Path) -> "SimilarityRecord":
        """Read an artifact folder.

        Raises:
            ValueError: if it was made before there were several measures.
        """
        found = json.loads((folder / "summary.json").read_text())
        if "measures" not in found:
            raise ValueError(
                f"{folder}: expected a similarity with its measures, got one of an earlier version; materialize "
                "explanation_similarity again"
            )
        return cls(SimilaritySummary.model_validate(found), pq.read_table(folder / "pairs.parquet"))

    @property
    def first(self) -> MeasureSummary:
        """The primary measure."""
        return self.summary.first

    def pairs_of(self, measure: str) -> pa.Table:
        """Rows of one measure."""
        return self.pairs.filter(pc.equal(self.pairs["measure"], measure))


@dataclass(frozen=True)
class VersionsRecord:
    """A *model versions* artifact."""

    summary: VersionsSummary
    pairs: pa.Table | None
    """Pairs of runs across and within the versions; None where none were compared."""

    @classmethod
    def read(cls, folder: Path) -> "VersionsRecord":
        """Read an artifact folder."""
        return cls(
            VersionsSummary.model_validate_json((folder / "summary.json").read_text()),
            _optional_table(folder / "pairs.parquet"),
        )


@dataclass(frozen=True)
class RunRecord:
    """One trained SAE."""

    name: str
    evaluation: RunEvaluation
    curve: pa.Table | None
    """Training curve; None for an SAE that was trained elsewhere."""


@dataclass(frozen=True)
class VariantRecord:
    """One variant of a study."""

    key: str
    config: VariantConfig
    runs: list[RunRecord]
    consistency: ConsistencyRecord
    similarity: SimilarityRecord
    versions: VersionsRecord | None
    """What it was with former versions of the model; None where the history is not known (without Dagster)."""
    explanations: dict[str, dict[str, pa.Table]]
    """By explainer, of the runs whose artifacts were given; the page quotes some of them."""
    scores: dict[str, dict[str, ScoresSummary]]
    """How well they predict where features fire: by explainer, of the runs that were scored."""

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sorts the variant that agrees most beyond chance first, and those whose seeds are not independent last."""
        kappa = self.consistency.kappa
        return (self.consistency.summary.shared_initialisation, np.inf if kappa is None else -kappa, self.key)


def read_variant(study: StudyConfig, key: str, artifacts: Mapping[str, Artifact]) -> VariantRecord:
    """Read everything that the report says about a variant.

    Raises:
        KeyError: if an artifact is missing; the message names it.
    """
    names = list(study.run_names())
    needed = ["consistency", "explanation_similarity", *(f"{kind} {name}" for name in names for kind in _PER_RUN)]
    missing = [name for name in needed if name not in artifacts]
    if missing:
        raise KeyError(f"variant {key} lacks {', '.join(missing)}; materialize them before the report")
    config = study.variant(key)
    trained_here = not isinstance(config, PretrainedConfig)
    return VariantRecord(
        key=key,
        config=config,
        runs=[_read_run(name, artifacts, trained_here) for name in names],
        consistency=ConsistencyRecord.read(artifacts["consistency"].path),
        similarity=SimilarityRecord.read(artifacts["explanation_similarity"].path),
        versions=VersionsRecord.read(artifacts["model_versions"].path) if "model_versions" in artifacts else None,
        explanations=_by_explainer(study, artifacts, "explanations", _read_explanations),
        scores=_by_explainer(study, artifacts, "scores", read_scores),
    )


def _by_explainer(
    study: StudyConfig, artifacts: Mapping[str, Artifact], kind: str, read: Callable[[Path], Read]
) -> dict[str, dict[str, Read]]:
    """What there is of every explainer, by its name and run; what is not there is left out."""
    return {
        explainer: {
            run: read(artifacts[f"{label} {run}"].path) for run in study.run_names() if f"{label} {run}" in artifacts
        }
        for explainer, label in explainer_labels(study.explanations.explainers, kind).items()
    }


def _read_explanations(folder: Path) -> pa.Table:
    return pq.read_table(folder / "explanations.parquet", columns=["feature", "half", "explanation"])


def read_scores(folder: Path) -> ScoresSummary:
    """The summary of an *explanation scores* artifact."""
    return ScoresSummary.model_validate_json((folder / "summary.json").read_text())


_PER_RUN = ("sae", "evaluation")


def _read_run(name: str, artifacts: Mapping[str, Artifact], trained_here: bool) -> RunRecord:
    text = (artifacts[f"evaluation {name}"].path / "evaluation.json").read_text()
    curve = pq.read_table(artifacts[f"sae {name}"].path / "training.parquet") if trained_here else None
    return RunRecord(name, RunEvaluation.model_validate(json.loads(text)), curve)


def _optional_table(path: Path) -> pa.Table | None:
    return pq.read_table(path) if path.is_file() else None
