"""Tables of *consistency*: one row a pair of runs, a matched pair of features, a feature."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int64

from sae_core.consistency.duplicates import Duplicates
from sae_core.consistency.pairs import NullDraws, RunPair
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import Kind, StableCore


def pair_table(runs: Sequence[Run], pairs: Sequence[RunPair]) -> pa.Table:
    """One row a pair of runs; what was not measured is null.

    ``n_same_index`` counts matched features with the same number; ``joint_mean`` is the mean score of the joint
    matching; ``certified`` and ``stopped`` speak of all matchings of the pair, those of the nulls included,
    ``upper_bound`` of the one of all features.
    """
    return pa.Table.from_pylist([_pair_row(runs, pair) for pair in pairs], schema=_PAIR_SCHEMA)


def match_table(runs: Sequence[Run], pairs: Sequence[RunPair]) -> pa.Table:
    """One row a matched pair of features under the absolute matching of the decoders, with the signed cosine.

    ``encoder_cosine`` is that of the same two features' encoders, signed; ``joint_cosine`` the mean of both cosines,
    signed: what Paulo & Belrose (2025) call a feature's similarity. Both are null without encoders.
    """
    tables = []
    for pair in pairs:
        a, b, found = runs[pair.a], runs[pair.b], pair.absolute
        encoder = np.full(len(found.left), np.nan) if pair.encoder_cosine is None else pair.encoder_cosine
        columns = {
            "run_a": pa.array([a.name] * len(found.left), pa.string()),
            "run_b": pa.array([b.name] * len(found.left), pa.string()),
            "feature_a": pa.array(found.left, pa.int64()),
            "feature_b": pa.array(found.right, pa.int64()),
            "cosine": pa.array(found.cosine, pa.float64()),
            "encoder_cosine": _known(encoder),
            "joint_cosine": _known((found.cosine + encoder) / 2),
            "alive_a": _optional(a.alive, found.left, pa.bool_()),
            "alive_b": _optional(b.alive, found.right, pa.bool_()),
            "frequency_a": _optional(a.frequency, found.left, pa.float64()),
            "frequency_b": _optional(b.frequency, found.right, pa.float64()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def feature_table(
    runs: Sequence[Run],
    pairs: Sequence[RunPair],
    thresholds: Sequence[float],
    duplicates: Sequence[Duplicates] | None = None,
    core: StableCore | None = None,
) -> pa.Table:
    """One row a feature of a run.

    Columns: ``consistency``, the mean absolute cosine with its partners in the other runs (null if it never has one);
    ``n_matched``, in how many of them it has one; ``best``, the mean over the other runs of the largest absolute
    cosine with any of their features; ``margin``, the mean of the matched cosine minus the best alternative;
    ``alive`` and ``frequency``, null when unknown; ``nearest_duplicate``, the largest absolute cosine with another
    feature of its own run, and ``nearest_duplicate_feature``, which one; ``core``, whether it is in the stable core
    (the last three null when not measured, or for a row of zeros); ``reappearance_<tau>``, the share of the other runs
    with a feature at least so similar.
    """
    tables = []
    for number in range(len(runs)):
        mine = None if duplicates is None else duplicates[number]
        tables.append(_features_of(runs, pairs, number, thresholds, mine, core))
    return pa.concat_tables(tables)


def _pair_row(runs: Sequence[Run], pair: RunPair) -> dict[str, object]:
    found = pair.absolute
    return {
        "run_a": runs[pair.a].name,
        "run_b": runs[pair.b].name,
        "n_matched": len(found.left),
        "mcc": found.mcc,
        "mcc_signed": None if pair.signed is None else pair.signed.mcc,
        "mcc_alive": None if pair.alive is None else pair.alive.mcc,
        "n_matched_alive": None if pair.alive is None else len(pair.alive.left),
        "mcc_merged": None if pair.merged is None else pair.merged.mcc,
        "joint_mean": None if pair.joint is None else pair.joint.matching.mcc,
        "upper_bound": found.upper_bound,
        "certified": pair.certified,
        "stopped": "; ".join(pair.stopped) or None,
        "null_second_moment": _mean_of(pair.second_moment),
        "null_sign_flip": _mean_of(pair.sign_flip),
        "share_negative": float((found.cosine < 0).mean()),
        "mmcs_forward": float(np.nanmean(found.best_left)),
        "mmcs_backward": float(np.nanmean(found.best_right)),
        "n_same_index": int((found.left == found.right).sum()),
    }


def _mean_of(null: NullDraws | None) -> float | None:
    return None if null is None else null.mcc


def _features_of(
    runs: Sequence[Run],
    pairs: Sequence[RunPair],
    number: int,
    thresholds: Sequence[float],
    duplicates: Duplicates | None,
    core: StableCore | None,
) -> pa.Table:
    run, n = runs[number], len(runs[number].W_dec)
    score, margin, best = [], [], []
    for pair in pairs:
        found = pair.absolute
        if pair.a == number:
            rows, margins, bests = found.left, found.margin_left, found.best_left
        elif pair.b == number:
            rows, margins, bests = found.right, found.margin_right, found.best_right
        else:
            continue
        score.append(_spread(rows, found.score, n))
        margin.append(_spread(rows, margins, n))
        best.append(bests)
    columns = {
        "run": pa.array([run.name] * n, pa.string()),
        "feature": pa.array(np.arange(n), pa.int64()),
        "consistency": _mean_known(np.array(score)),
        "n_matched": pa.array(np.isfinite(score).sum(axis=0), pa.int64()),
        "best": _mean_known(np.array(best)),
        "margin": _mean_known(np.array(margin)),
        "alive": _optional(run.alive, np.arange(n), pa.bool_()),
        "frequency": _optional(run.frequency, np.arange(n), pa.float64()),
        "nearest_duplicate": _known(np.full(n, np.nan) if duplicates is None else duplicates.nearest),
        "nearest_duplicate_feature": _known_index(np.full(n, -1) if duplicates is None else duplicates.nearest_feature),
        "core": _in_core(core, number, n),
    }
    for tau in thresholds:
        columns[f"reappearance_{tau:g}"] = _mean_known(np.where(np.isnan(best), np.nan, np.array(best) >= tau))
    return pa.table(columns)


def _spread(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    out = np.full(n, np.nan)
    out[rows] = values
    return out


def _mean_known(values: Float[np.ndarray, "others n"]) -> pa.Array:
    """Mean over the values that are not nan; null where there is none."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
    return pa.array(mean, pa.float64(), mask=count == 0)


def _optional(values: np.ndarray | None, rows: np.ndarray, kind: pa.DataType) -> pa.Array:
    if values is None:
        return pa.nulls(len(rows), kind)
    return pa.array(values[rows].astype(np.float64) if pa.types.is_floating(kind) else values[rows], kind)


def _known(values: Float[np.ndarray, " n"]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def _known_index(values: Int64[np.ndarray, " n"]) -> pa.Array:
    return pa.array(values, pa.int64(), mask=values < 0)


def _in_core(core: StableCore | None, number: int, n: int) -> pa.Array:
    if core is None:
        return pa.nulls(n, pa.bool_())
    return pa.array(core.contains(number), pa.bool_(), mask=core.kinds[number] == Kind.NONE)


_PAIR_SCHEMA = pa.schema(
    [
        pa.field("run_a", pa.string()),
        pa.field("run_b", pa.string()),
        pa.field("n_matched", pa.int64()),
        pa.field("mcc", pa.float64()),
        pa.field("mcc_signed", pa.float64()),
        pa.field("mcc_alive", pa.float64()),
        pa.field("n_matched_alive", pa.int64()),
        pa.field("mcc_merged", pa.float64()),
        pa.field("joint_mean", pa.float64()),
        pa.field("upper_bound", pa.float64()),
        pa.field("certified", pa.bool_()),
        pa.field("stopped", pa.string()),
        pa.field("null_second_moment", pa.float64()),
        pa.field("null_sign_flip", pa.float64()),
        pa.field("share_negative", pa.float64()),
        pa.field("mmcs_forward", pa.float64()),
        pa.field("mmcs_backward", pa.float64()),
        pa.field("n_same_index", pa.int64()),
    ]
)
