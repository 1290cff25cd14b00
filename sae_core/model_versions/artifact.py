"""All files of a *model versions* artifact, from the folders of two *consistency* artifacts and their SAEs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float

from sae_core.config import ConsistencyConfig
from sae_core.formats import load_dictionary
from sae_core.model_versions.comparing import VersionsReport, compare_versions
from sae_core.model_versions.results import AcrossVersions, VersionRow, VersionsSummary
from sae_core.model_versions.version_runs import NotComparable, VersionRuns
from sae_core.progress import Progress, silent
from sae_core.whole_files import write_whole

ONE_MODEL = "there is no other version of the model"
"""Why nothing is compared where the model has not changed yet."""


@dataclass(frozen=True)
class VersionFolders:
    """Where one version lies."""

    consistency: Path
    saes: Mapping[str, Path]
    """By the name of the run."""


@dataclass(frozen=True)
class Plan:
    """What there is to say, known before anything is matched."""

    rows: Sequence[VersionRow]
    compared_with: str | None
    not_compared: str | None
    cautions: Sequence[str]


def build_versions(
    folder: Path,
    plan: Plan,
    old: VersionFolders | None,
    new: VersionFolders | None,
    config: ConsistencyConfig,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare two versions, where there are two, and write what was found.

    ``summary.json`` (:class:`VersionsSummary`), and where versions were compared ``pairs.parquet`` and
    ``features.parquet``.

    Args:
        old, new: the two versions; None where nothing is compared.

    Returns:
        The numbers that are worth a plot over time.
    """
    report, reason = None, plan.not_compared
    if reason is None and old is not None and new is not None:
        try:
            report = compare_versions(read_version(old), read_version(new), config, progress)
        except NotComparable as error:
            reason = f"not comparable: {error}"
    summary = VersionsSummary(
        n_versions=len(plan.rows),
        n_missing=sum(not row.in_store for row in plan.rows),
        n_models=len({row.model for row in plan.rows if row.model is not None}),
        versions=list(plan.rows),
        compared_with=plan.compared_with,
        across=None if report is None else report.across,
        not_compared=reason,
        cautions=list(plan.cautions),
    )
    _write(folder, summary, report)
    return headline(summary)


def read_version(folders: VersionFolders) -> VersionRuns:
    """The decoders of a version, and what its *consistency* found about its seeds.

    Raises:
        FileNotFoundError, ValueError: if a file is missing or not readable.
    """
    names = list(folders.saes)
    features = pq.read_table(
        folders.consistency / "features.parquet", columns=["run", "feature", "consistency", "frequency"]
    )
    of_runs = {name: features.filter(pc.equal(features["run"], name)).sort_by("feature") for name in names}
    return VersionRuns(
        dictionaries={name: load_dictionary(path).W_dec for name, path in folders.saes.items()},
        within=_within(folders.consistency, names),
        agreement={name: _column(table, "consistency") for name, table in of_runs.items()},
        frequency={name: _column(table, "frequency") for name, table in of_runs.items()},
    )


def _within(consistency: Path, names: Sequence[str]) -> Float[np.ndarray, "runs others"]:
    places = {name: place for place, name in enumerate(names)}
    values = np.full((len(names), len(names)), np.nan)
    for pair in pq.read_table(consistency / "pairs.parquet", columns=["run_a", "run_b", "mcc"]).to_pylist():
        a, b = places[pair["run_a"]], places[pair["run_b"]]
        values[a, b] = values[b, a] = pair["mcc"]
    return values


def _column(table: pa.Table, name: str) -> Float[np.ndarray, " n"]:
    """A column as float64, nan where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def headline(summary: VersionsSummary) -> dict[str, Any]:
    """Flat numbers for the UI; those of the comparison only where there is one."""
    found: dict[str, Any] = {
        "n_versions": summary.n_versions,
        "n_missing": summary.n_missing,
        "n_models": summary.n_models,
    }
    if summary.across is None:
        return found | {"not_compared": summary.not_compared}
    across: AcrossVersions = summary.across
    values: dict[str, Any] = {name: getattr(across, name) for name in _PLOTTED}
    shares: dict[str, float | None] = {f"shared_fraction/{tau}": share for tau, share in across.shared_fraction.items()}
    shares |= {f"share_new/{tau}": share for tau, share in across.share_new.items()}
    shares |= {f"share_lost/{tau}": share for tau, share in across.share_lost.items()}
    return found | {name: value for name, value in (values | shares).items() if value is not None}


_PLOTTED = (
    "pw_mcc_across", "across_ci_low", "across_ci_high", "pw_mcc_same_seed", "pw_mcc_different_seed", "within_old",
    "within_new", "difference", "difference_ci_low", "difference_ci_high", "difference_all_pairs", "null_isotropic",
    "null_sign_flip", "kappa_isotropic", "kappa_sign_flip", "certified", "upper_bound",
)  # fmt: skip
assert set(_PLOTTED) <= set(AcrossVersions.model_fields)


def _write(folder: Path, summary: VersionsSummary, report: VersionsReport | None) -> None:
    if report is not None:
        for name, table in (("pairs", report.pairs), ("features", report.features)):
            write_whole(folder / f"{name}.parquet", partial(pq.write_table, table))
    text = summary.model_dump_json(indent=1) + "\n"
    write_whole(folder / "summary.json", lambda part: part.write_text(text, encoding="utf-8"))
