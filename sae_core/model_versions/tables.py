"""Tables of *model versions*: one row a pair of runs, a feature of a run."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from sae_core.matching import Matching
from sae_core.model_versions.matched_pairs import AcrossPair
from sae_core.model_versions.version_runs import VersionRuns

PAIR_SCHEMA = pa.schema(
    [
        pa.field("which", pa.string()),
        pa.field("run_a", pa.string()),
        pa.field("run_b", pa.string()),
        pa.field("same_seed", pa.bool_()),
        pa.field("mcc", pa.float64()),
        pa.field("n_matched", pa.int64()),
        pa.field("upper_bound", pa.float64()),
        pa.field("certified", pa.bool_()),
        pa.field("null_sign_flip", pa.float64()),
    ]
)


def pair_table(pairs: Sequence[AcrossPair], old: VersionRuns, new: VersionRuns) -> pa.Table:
    """One row a pair of runs.

    ``which`` is ``across`` (then ``run_a`` is of the old version and ``run_b`` of the new), ``within old`` or
    ``within new``; of pairs within a version, which *consistency* matched, ``mcc`` alone is told.
    """
    rows = [_across(pair) for pair in pairs] + _within("within old", old) + _within("within new", new)
    return pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)


def _across(pair: AcrossPair) -> dict[str, object]:
    return {
        "which": "across",
        "run_a": pair.old,
        "run_b": pair.new,
        "same_seed": pair.same_seed,
        "mcc": pair.found.mcc,
        "n_matched": len(pair.found.left),
        "upper_bound": pair.found.upper_bound,
        "certified": pair.found.certified,
        "null_sign_flip": None if pair.null is None else pair.null.mcc,
    }


def _within(which: str, runs: VersionRuns) -> list[dict[str, object]]:
    return [
        {"which": which, "run_a": a, "run_b": b, "same_seed": False, "mcc": float(runs.within[i, j])}
        for i, a in enumerate(runs.names)
        for j, b in enumerate(runs.names)
        if i < j
    ]


def feature_table(pairs: Sequence[AcrossPair], old: VersionRuns, new: VersionRuns) -> pa.Table:
    """One row a feature of a run of either version.

    Columns: ``version`` (``old`` or ``new``), ``run``, ``feature``; ``frequency``, null when unknown; ``within``, the
    mean absolute cosine with its partners in the other runs of its version; ``across``, the same with its partners in
    the runs of the other version (null where it never has one), and ``n_matched``, in how many of these it has one;
    ``best``, the mean over the runs of the other version of the largest absolute cosine with any of their features,
    and ``best_of_all``, the largest of these: a feature that is new has a high ``within`` and a low ``best_of_all``.
    Rows of zeros have none of these.
    """
    of_old = {name: [pair.found for pair in pairs if pair.old == name] for name in old.names}
    of_new = {name: [pair.found for pair in pairs if pair.new == name] for name in new.names}
    tables = [_features("old", old, name, found, left=True) for name, found in of_old.items()]
    tables += [_features("new", new, name, found, left=False) for name, found in of_new.items()]
    return pa.concat_tables(tables)


def _features(version: str, runs: VersionRuns, run: str, found: Sequence[Matching], left: bool) -> pa.Table:
    n = len(runs.dictionaries[run])
    score = np.full((len(found), n), np.nan)
    for row, matching in zip(score, found, strict=True):
        row[matching.left if left else matching.right] = matching.score
    best = np.array([matching.best_left if left else matching.best_right for matching in found])
    return pa.table(
        {
            "version": pa.array([version] * n, pa.string()),
            "run": pa.array([run] * n, pa.string()),
            "feature": pa.array(np.arange(n), pa.int64()),
            "frequency": _known(runs.frequency[run]),
            "within": _known(runs.agreement[run]),
            "across": _known(_mean(score)),
            "n_matched": pa.array(np.isfinite(score).sum(axis=0), pa.int64()),
            "best": _known(_mean(best)),
            "best_of_all": _known(np.fmax.reduce(best, axis=0)),
        }
    )


def _mean(values: Float[np.ndarray, "others n"]) -> Float[np.ndarray, " n"]:
    """Mean over what is known; nan where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)


def _known(values: Float[np.ndarray, " n"]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def share_without(features: pa.Table, version: str, tau: float) -> tuple[int, float | None]:
    """Features of a version on which its seeds agree (``within`` at least tau), and the share of these that no run of
    the other version has (``best_of_all`` below tau); None where the seeds agree on none.
    """
    agreed = features.filter(pc.and_(pc.equal(features["version"], version), pc.greater_equal(features["within"], tau)))
    if agreed.num_rows == 0:
        return 0, None
    n_gone = agreed.num_rows - int(pc.sum(pc.greater_equal(agreed["best_of_all"], tau)).as_py() or 0)
    return agreed.num_rows, n_gone / agreed.num_rows
