"""The consensus of several runs: one dictionary of the features that most of them found. Part of *consistency*.

All runs are matched to the run that agrees best with the others; of the members of each feature that agree, the
geometric median is taken; what too few runs support is dropped; what enough runs have and that one lacks is added; and
the runs are matched to the result, until nothing changes. :mod:`sae_core.consistency.consensus_sae` makes an SAE of it,
:mod:`sae_core.consistency.group_comparison` shows what it is worth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from sae_core.consistency.geometric_medians import chunks, geometric_medians, geometric_weights
from sae_core.consistency.mutual_neighbours import Matchings, check_matchings, check_threshold, has_direction, partners
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import Kind, stable_core
from sae_core.matching import match, unit_rows
from sae_core.progress import Progress, silent


@dataclass(frozen=True)
class Consensus:
    """Features that most runs have: in the order of the medoid's rows, and then those that it lacks."""

    runs: tuple[str, ...]
    medoid: int
    """Place of the run that agrees best with the others."""
    W_dec: Float[np.ndarray, "m d_in"]
    """Unit directions: geometric medians of the unit decoder rows of the members, signs aligned. A direction has the
    sign that most of its members have, or the first of them."""
    W_enc: Float[np.ndarray, "_ _"] | None
    """``(d_in, m)``: geometric medians of the members' encoder columns, with the same signs, each times the length of
    its decoder row, as fits decoder rows of unit length. None unless every run has an encoder."""
    members: Int64[np.ndarray, "m runs"]
    """Row of each feature in each run; -1 where the run does not support it."""
    cosine: Float[np.ndarray, "m runs"]
    """Cosine of each member with the direction, negative for a member that points the other way; nan without one."""
    spread: Float[np.ndarray, " m"]
    """One minus the mean cosine of two members, signs aligned: 0 when all are the same direction."""
    tau: float
    min_support: int
    signed: bool
    n_rounds: int
    """Times that the runs were matched: to the medoid first, to the consensus after that."""
    converged: bool
    """Whether the last round changed nothing."""
    certified: bool
    """Whether every matching that was made is proven optimal."""

    @property
    def n_features(self) -> int:
        """Features that enough runs support; 0 when runs share nothing."""
        return len(self.W_dec)

    @property
    def support(self) -> Int64[np.ndarray, " m"]:
        """Runs that have each feature."""
        return np.asarray((self.members >= 0).sum(axis=1))

    @property
    def n_opposed(self) -> int:
        """Members that point the other way: the same axis, yet a ReLU feature fires on one side of it only."""
        return int((self.cosine < 0).sum())


@dataclass(frozen=True)
class _Candidates:
    """One round: what the matched rows have in common."""

    members: Int64[np.ndarray, "m runs"]
    cosine: Float[np.ndarray, "m runs"]
    directions: Float[np.ndarray, "m d_in"]
    spread: Float[np.ndarray, " m"]


def consensus(
    runs: Sequence[Run],
    matchings: Matchings,
    tau: float = 0.7,
    min_support: int | None = None,
    max_rounds: int = 10,
    time_budget_s: float | None = None,
    progress: Progress = silent,
) -> Consensus:
    """The dictionary of features that most runs found.

    Of the rows matched to a feature, the one closest to all others is the centre; those with a cosine of at least tau
    with it are its members, and the median of their unit rows is the direction. A feature with fewer than
    ``min_support`` members is dropped. Features that the medoid lacks come from the components of mutual nearest
    neighbours (see :func:`sae_core.consistency.stable_core`) that span enough runs and of which no node is a member.

    Args:
        runs: at least two; they may have different numbers of features.
        matchings: of every pair of places i < j; signed ones make all of it signed, and then no member points the
            other way.
        tau: least cosine of a member with the centre, in (0, 1].
        min_support: members that a feature needs; None takes more than half of the runs.
        max_rounds: matchings of all runs, at most; the first are those given.
        time_budget_s: seconds for one matching; one that took longer is not proven, and ``certified`` says so.
        progress: called before every matching.

    Raises:
        ValueError: if the matchings are not those of the runs, or a setting is impossible.
    """
    check_matchings(runs, matchings)
    least = len(runs) // 2 + 1 if min_support is None else min_support
    _check_settings(len(runs), tau, least, max_rounds)
    signed, medoid = matchings[0, 1].signed, _medoid(len(runs), matchings)
    certified = all(matchings[min(medoid, r), max(medoid, r)].certified for r in range(len(runs)) if r != medoid)
    found = _supported(_agree(runs, _rows_of_medoid(runs, matchings, medoid), tau, signed), least)
    missed = _agree(runs, _missed(runs, matchings, tau, found.members), tau, signed)
    found, n_rounds, converged = _join([found, _supported(missed, least)]), 1, False
    while not converged and n_rounds < max_rounds and len(found.members):
        step = partial(_tell, progress, len(runs), n_rounds + 1)
        rows, proven = _rematch(runs, found.directions, signed, time_budget_s, step)
        previous, found = found.members, _supported(_agree(runs, rows, tau, signed), least)
        converged = np.array_equal(found.members, previous)
        certified, n_rounds = certified and proven, n_rounds + 1
    return Consensus(
        runs=tuple(run.name for run in runs),
        medoid=medoid,
        W_dec=found.directions,
        W_enc=_encoders(runs, found),
        members=found.members,
        cosine=found.cosine,
        spread=found.spread,
        tau=float(tau),
        min_support=least,
        signed=signed,
        n_rounds=n_rounds,
        converged=converged or not len(found.members),
        certified=certified,
    )


def _check_settings(n_runs: int, tau: float, min_support: int, max_rounds: int) -> None:
    check_threshold(tau)
    if not 2 <= min_support <= n_runs:
        raise ValueError(f"min_support must be at least 2 and at most the {n_runs} runs: got {min_support}")
    if max_rounds < 1:
        raise ValueError(f"a consensus needs at least one round: got max_rounds={max_rounds}")


def _medoid(n_runs: int, matchings: Matchings) -> int:
    """The run with the largest mean MCC with the others, the first of equals."""
    mean = np.zeros(n_runs)
    for i in range(n_runs):
        for j in range(i + 1, n_runs):
            mean[[i, j]] += matchings[i, j].mcc
    return int(np.argmax(np.round(mean, 12)))  # rounded: the order of the sums must not decide


def _rows_of_medoid(runs: Sequence[Run], matchings: Matchings, medoid: int) -> Int64[np.ndarray, "m runs"]:
    """For each feature of the medoid that has a direction, its matched row in every run; -1 where it has none."""
    n = len(runs[medoid].W_dec)
    columns = [np.arange(n) if run == medoid else partners(matchings, medoid, run, n) for run in range(len(runs))]
    return np.asarray(np.stack(columns, axis=1)[has_direction(matchings, len(runs))[medoid]])


def _missed(
    runs: Sequence[Run], matchings: Matchings, tau: float, members: Int64[np.ndarray, "m runs"]
) -> Int64[np.ndarray, "missed runs"]:
    """Rows of the components of mutual nearest neighbours, each run once at most, that hold no member."""
    graph = stable_core(runs, matchings, tau)
    n_components = max(int(component.max()) for component in graph.components) + 1
    rows = np.full((n_components, len(runs)), -1)
    taken = np.zeros(n_components, bool)
    for run, (component, kind) in enumerate(zip(graph.components, graph.kinds, strict=True)):
        usable = np.flatnonzero((kind == Kind.PARTIAL) | (kind == Kind.CORE))
        rows[component[usable], run] = usable
        taken[component[members[members[:, run] >= 0, run]]] = True
    return np.asarray(rows[~taken & (rows >= 0).any(axis=1)])


def _tell(progress: Progress, n_runs: int, number_of_round: int, done: int, name: str) -> None:
    progress(done, n_runs, f"consensus, round {number_of_round}: matching {name}")


def _rematch(
    runs: Sequence[Run],
    directions: Float[np.ndarray, "m d_in"],
    signed: bool,
    time_budget_s: float | None,
    step: Callable[[int, str], None],
) -> tuple[Int64[np.ndarray, "m runs"], bool]:
    """The row of each run that is matched with each direction, and whether all matchings are proven."""
    rows, certified = np.full((len(directions), len(runs)), -1), True
    for number, run in enumerate(runs):
        step(number, run.name)
        found = match(directions, run.W_dec, signed, names=("consensus", run.name), time_budget_s=time_budget_s)
        rows[found.left, number] = found.right
        certified = certified and found.certified
    return rows, certified


def _agree(runs: Sequence[Run], rows: Int64[np.ndarray, "m runs"], tau: float, signed: bool) -> _Candidates:
    """Of the rows matched to each feature, those that agree, and the median of their directions."""
    parts = list(chunks(len(rows), len(runs), runs[0].W_dec.shape[1])) or [slice(0)]
    return _join([_agree_chunk(_unit(runs, rows[part]), rows[part], tau, signed) for part in parts])


def _join(parts: Sequence[_Candidates]) -> _Candidates:
    names = [field.name for field in fields(_Candidates)]
    return _Candidates(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _supported(found: _Candidates, least: int) -> _Candidates:
    """The candidates that enough runs have."""
    kept = (found.members >= 0).sum(axis=1) >= least
    return _Candidates(**{field.name: getattr(found, field.name)[kept] for field in fields(found)})


def _agree_chunk(
    unit: Float[np.ndarray, "m runs d_in"], rows: Int64[np.ndarray, "m runs"], tau: float, signed: bool
) -> _Candidates:
    each, there = np.arange(len(rows)), rows >= 0
    gram = unit @ unit.transpose(0, 2, 1)
    score = gram if signed else np.abs(gram)
    centre = np.where(there, score.sum(axis=2), -np.inf).argmax(axis=1)
    near = score[each, centre]
    near[each, centre] = 1.0
    member = there & (near >= tau)
    sign = np.where(gram[each, centre] < 0, -1.0, 1.0)
    gram = gram * sign[:, :, None] * sign[:, None, :]
    weights = geometric_weights(gram, member)
    projected = (gram @ weights[:, :, None])[:, :, 0]
    length = np.sqrt((weights * projected).sum(axis=1, keepdims=True))
    length[length == 0] = 1.0  # nothing there: such a feature has no member and is dropped
    cosine = np.where(member, np.clip(sign * projected / length, -1, 1), np.nan)
    flip = _flip(cosine, member)
    n = member.sum(axis=1)
    together = (gram * member[:, :, None] * member[:, None, :]).sum(axis=(1, 2)) - n
    return _Candidates(
        members=np.where(member, rows, -1),
        cosine=cosine * flip,
        directions=((weights * sign)[:, None, :] @ unit)[:, 0] * (flip / length),
        spread=np.clip(1 - together / np.maximum(n * (n - 1), 1), 0, 2),
    )


def _flip(cosine: Float[np.ndarray, "m runs"], member: Bool[np.ndarray, "m runs"]) -> Float[np.ndarray, "m 1"]:
    """-1 where most members point the other way, or the first of them where they are as many."""
    sign = np.where(cosine < 0, -1.0, 1.0)
    total = (sign * member).sum(axis=1)
    first = sign[np.arange(len(sign)), member.argmax(axis=1)]
    return np.asarray(np.where(total == 0, first, np.sign(total))[:, None])


def _unit(runs: Sequence[Run], rows: Int64[np.ndarray, "m runs"]) -> Float[np.ndarray, "m runs d_in"]:
    """Unit decoder rows in float64, zero where there is none."""
    out = np.zeros((*rows.shape, runs[0].W_dec.shape[1]))
    for number, run in enumerate(runs):
        there = rows[:, number] >= 0
        chosen = torch.from_numpy(rows[there, number])
        out[there, number] = unit_rows(torch.as_tensor(run.W_dec), chosen).numpy()
    return np.asarray(out)


def _encoders(runs: Sequence[Run], found: _Candidates) -> Float[np.ndarray, "d_in m"] | None:
    encoders = [run.W_enc for run in runs if run.W_enc is not None]
    if len(encoders) < len(runs):
        return None
    d_in = len(encoders[0])
    out = np.zeros((d_in, len(found.members)))
    for chunk in chunks(len(found.members), len(runs), d_in):
        members = found.members[chunk]
        vectors = np.zeros((*members.shape, d_in))
        for number, (run, W_enc) in enumerate(zip(runs, encoders, strict=True)):
            there = members[:, number] >= 0
            rows = members[there, number]
            length = np.linalg.norm(run.W_dec[rows].astype(np.float64), axis=1)
            sign = np.sign(found.cosine[chunk][there, number])
            vectors[there, number] = W_enc.T[rows] * (sign * length)[:, None]
        out[:, chunk] = geometric_medians(vectors, members >= 0).T
    return out
