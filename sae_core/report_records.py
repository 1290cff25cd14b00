"""What a report is made of: the records of each variant, read from its artifacts, and the table of variants.

Part of *report*, the last stage of the flow.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict

from sae_core.config import StudyConfig, VariantConfig
from sae_core.consistency_results import ConsistencySummary
from sae_core.evaluation import EvaluationSummary
from sae_core.similarity_results import SimilaritySummary
from sae_core.store import Artifact

Value = str | int | float | None


class RunEvaluation(EvaluationSummary):
    """What the report reads of ``evaluation.json`` of one run; more may stand there."""

    model_config = ConfigDict(extra="ignore")

    loss_recovered: float | None
    ce_clean: float | None
    ce_patched: float | None
    ce_zero: float | None
    n_loss_tokens: int | None


@dataclass(frozen=True)
class ConsistencyRecord:
    """A *consistency* artifact."""

    summary: ConsistencySummary
    pairs: pa.Table
    features: pa.Table

    @classmethod
    def read(cls, folder: Path) -> "ConsistencyRecord":
        """Read an artifact folder."""
        return cls(
            ConsistencySummary.model_validate_json((folder / "summary.json").read_text()),
            pq.read_table(folder / "pairs.parquet"),
            pq.read_table(folder / "features.parquet"),
        )


@dataclass(frozen=True)
class SimilarityRecord:
    """An *explanation similarity* artifact."""

    summary: SimilaritySummary
    pairs: pa.Table

    @classmethod
    def read(cls, folder: Path) -> "SimilarityRecord":
        """Read an artifact folder."""
        return cls(
            SimilaritySummary.model_validate_json((folder / "summary.json").read_text()),
            pq.read_table(folder / "pairs.parquet"),
        )


@dataclass(frozen=True)
class RunRecord:
    """One trained SAE."""

    name: str
    evaluation: RunEvaluation
    curve: pa.Table


@dataclass(frozen=True)
class VariantRecord:
    """One variant of a study."""

    key: str
    config: VariantConfig
    runs: list[RunRecord]
    consistency: ConsistencyRecord
    similarity: SimilarityRecord
    explanations: dict[str, pa.Table]
    """Explanations of the runs whose artifacts were given; the page quotes some of them."""

    @property
    def order(self) -> tuple[float, str]:
        """Sorts the variant that agrees most beyond chance first."""
        kappa = self.consistency.summary.kappa_sign_flip
        return (np.inf if kappa is None else -kappa, self.key)


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
    return VariantRecord(
        key=key,
        config=study.variant(key),
        runs=[_read_run(name, artifacts) for name in names],
        consistency=ConsistencyRecord.read(artifacts["consistency"].path),
        similarity=SimilarityRecord.read(artifacts["explanation_similarity"].path),
        explanations={
            name: pq.read_table(artifacts[f"explanations {name}"].path / "explanations.parquet")
            for name in names
            if f"explanations {name}" in artifacts
        },
    )


_PER_RUN = ("sae", "evaluation")


def _read_run(name: str, artifacts: Mapping[str, Artifact]) -> RunRecord:
    text = (artifacts[f"evaluation {name}"].path / "evaluation.json").read_text()
    curve = pq.read_table(artifacts[f"sae {name}"].path / "training.parquet")
    return RunRecord(name, RunEvaluation.model_validate(json.loads(text)), curve)
