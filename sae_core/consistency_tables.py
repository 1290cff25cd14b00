"""Tables of *consistency*: one row a pair of runs, a matched pair of features, a feature; and bins of frequency."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from sae_core.consistency_results import FrequencyBin
from sae_core.matching import Matching


@dataclass(frozen=True)
class Run:
    """One trained SAE, as consistency sees it.

    Raises:
        ValueError: if there is not one frequency a feature, or one is negative or not finite.
    """

    name: str
    """For example ``seed 0``."""
    W_dec: Float[np.ndarray, "d_sae d_in"]
    """Decoder, one feature a row."""
    frequency: Float[np.ndarray, " _"] | None = None
    """Share of evaluation tokens on which each feature fired; None when unknown."""

    def __post_init__(self) -> None:
        if self.frequency is None:
            return
        if self.frequency.shape != (len(self.W_dec),):
            raise ValueError(
                f"{self.name}: expected one frequency a feature, shape ({len(self.W_dec)},), "
                f"got {self.frequency.shape}; pass the frequencies of the same SAE"
            )
        if not (np.isfinite(self.frequency) & (self.frequency >= 0)).all():
            raise ValueError(f"{self.name}: a frequency is negative or not finite; evaluate the SAE again")

    @property
    def alive(self) -> Bool[np.ndarray, " d_sae"] | None:
        """Which features fired at all on the evaluation tokens; None when unknown."""
        return None if self.frequency is None else self.frequency > 0


@dataclass(frozen=True)
class RunPair:
    """What was found about two runs; ``a`` and ``b`` are their places among the runs."""

    a: int
    b: int
    absolute: Matching
    signed: Matching
    alive: Matching | None
    null_sign_flip: float
    null_counts: Float[np.ndarray, " bins"]
    certified: bool

    @property
    def n_with_direction(self) -> tuple[int, int]:
        """Features of either run whose decoder row is not zero."""
        found = self.absolute
        return len(found.best_left) - found.n_excluded_left, len(found.best_right) - found.n_excluded_right


def histogram_edges(n_bins: int) -> Float[np.ndarray, " edges"]:
    """Borders of equal bins of the absolute cosine."""
    return np.linspace(0.0, 1.0, n_bins + 1)


def pair_table(runs: Sequence[Run], pairs: Sequence[RunPair]) -> pa.Table:
    """One row a pair of runs."""
    return pa.Table.from_pylist(
        [
            {
                "run_a": runs[pair.a].name,
                "run_b": runs[pair.b].name,
                "n_matched": len(pair.absolute.left),
                "mcc": pair.absolute.mcc,
                "mcc_signed": pair.signed.mcc,
                "mcc_alive": None if pair.alive is None else pair.alive.mcc,
                "n_matched_alive": None if pair.alive is None else len(pair.alive.left),
                "upper_bound": pair.absolute.upper_bound,
                "certified": pair.certified,
                "null_sign_flip": pair.null_sign_flip,
                "share_negative": float((pair.absolute.cosine < 0).mean()),
                "mmcs_forward": float(np.nanmean(pair.absolute.best_left)),
                "mmcs_backward": float(np.nanmean(pair.absolute.best_right)),
            }
            for pair in pairs
        ],
        schema=_PAIR_SCHEMA,
    )


def match_table(runs: Sequence[Run], pairs: Sequence[RunPair]) -> pa.Table:
    """One row a matched pair of features under the absolute matching, with the signed cosine."""
    tables = []
    for pair in pairs:
        a, b, found = runs[pair.a], runs[pair.b], pair.absolute
        columns = {
            "run_a": pa.array([a.name] * len(found.left), pa.string()),
            "run_b": pa.array([b.name] * len(found.left), pa.string()),
            "feature_a": pa.array(found.left, pa.int64()),
            "feature_b": pa.array(found.right, pa.int64()),
            "cosine": pa.array(found.cosine, pa.float64()),
            "alive_a": _optional(a.alive, found.left, pa.bool_()),
            "alive_b": _optional(b.alive, found.right, pa.bool_()),
            "frequency_a": _optional(a.frequency, found.left, pa.float64()),
            "frequency_b": _optional(b.frequency, found.right, pa.float64()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def feature_table(runs: Sequence[Run], pairs: Sequence[RunPair], thresholds: Sequence[float]) -> pa.Table:
    """One row a feature of a run.

    Columns: ``consistency``, the mean absolute cosine with its partners in the other runs (null if it never has one);
    ``n_matched``, in how many of them it has one; ``best``, the mean over the other runs of the largest absolute
    cosine with any of their features; ``margin``, the mean of the matched cosine minus the best alternative;
    ``reappearance_<tau>``, the share of the other runs with a feature at least so similar.
    """
    return pa.concat_tables([_features_of(runs, pairs, number, thresholds) for number in range(len(runs))])


def frequency_bins(runs: Sequence[Run], pairs: Sequence[RunPair], n_bins: int) -> list[FrequencyBin] | None:
    """Log-spaced bins of the frequency of matched pairs, the smaller of the two features' frequencies.

    A bin's contribution is the mean over pairs of runs of (sum of its absolute cosines) / (matched pairs), so all
    contributions add up to PW-MCC. Pairs with a feature that never fired have a bin of their own, the first, if there
    are any.
    """
    frequency, cosine, weight = [], [], []
    for pair in pairs:
        f_a, f_b, found = runs[pair.a].frequency, runs[pair.b].frequency, pair.absolute
        if f_a is None or f_b is None:
            return None
        frequency.append(np.minimum(f_a[found.left], f_b[found.right]).astype(np.float64))
        cosine.append(found.score)
        weight.append(np.full(len(found.left), 1 / (len(found.left) * len(pairs))))
    f, c, w = np.concatenate(frequency), np.concatenate(cosine), np.concatenate(weight)
    dead = f == 0
    bins = [_bin(0.0, 0.0, dead, c, w)] if dead.any() else []
    if dead.all():
        return bins
    low, high = float(f[~dead].min()), float(f.max())
    n = n_bins if high > low else 1
    edges = np.geomspace(low, high, n + 1)
    place = np.clip(np.searchsorted(edges, f, side="right") - 1, 0, n - 1)
    bins += [_bin(float(edges[i]), float(edges[i + 1]), ~dead & (place == i), c, w) for i in range(n)]
    return bins


def _bin(low: float, high: float, inside: np.ndarray, cosine: np.ndarray, weight: np.ndarray) -> FrequencyBin:
    values = cosine[inside]
    return FrequencyBin(
        low=low,
        high=high,
        n_matches=len(values),
        mean_cosine=float(values.mean()) if len(values) else None,
        sd_cosine=float(values.std(ddof=1)) if len(values) > 1 else None,
        contribution=float((values * weight[inside]).sum()),
    )


def _features_of(runs: Sequence[Run], pairs: Sequence[RunPair], number: int, thresholds: Sequence[float]) -> pa.Table:
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


_PAIR_SCHEMA = pa.schema(
    [
        pa.field("run_a", pa.string()),
        pa.field("run_b", pa.string()),
        pa.field("n_matched", pa.int64()),
        pa.field("mcc", pa.float64()),
        pa.field("mcc_signed", pa.float64()),
        pa.field("mcc_alive", pa.float64()),
        pa.field("n_matched_alive", pa.int64()),
        pa.field("upper_bound", pa.float64()),
        pa.field("certified", pa.bool_()),
        pa.field("null_sign_flip", pa.float64()),
        pa.field("share_negative", pa.float64()),
        pa.field("mmcs_forward", pa.float64()),
        pa.field("mmcs_backward", pa.float64()),
    ]
)
