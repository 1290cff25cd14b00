"""Everything that *consistency* measures about two runs: their matchings, and those of the nulls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from sae_core.config import ConsistencyConfig
from sae_core.consistency.duplicates import Duplicates, find_duplicates, merge_duplicates
from sae_core.consistency.nulls import second_moment_matchings, sign_flip_matchings
from sae_core.consistency.runs import Run
from sae_core.matching import JointMatching, Matching, match, match_joint
from sae_core.matching.directions import as_matrix, has_direction, paired_cosines
from sae_core.progress import Progress

Step = Callable[[str], Progress]
"""Says that the next step begins, and gives the progress within it."""


@dataclass(frozen=True)
class NullDraws:
    """What several draws of one null scored."""

    mcc: float
    """Mean over the draws."""
    upper_bound: float
    """No matchings of the same draws give a larger mean."""
    counts: Float64[np.ndarray, " bins"]
    """Histogram of the matched absolute cosines, mean over the draws."""
    certified: bool
    stopped: tuple[str, ...]
    """Why draws ended before the proof."""


@dataclass(frozen=True)
class Distinct:
    """One run without its duplicates."""

    duplicates: Duplicates
    merged: Float[np.ndarray, "groups d_in"] | None
    """The decoder with duplicates merged; None when there are none."""


@dataclass(frozen=True)
class RunPair:
    """What was found about two runs; ``a`` and ``b`` are their places among the runs. What is off is None."""

    a: int
    b: int
    absolute: Matching
    signed: Matching | None
    alive: Matching | None
    merged: Matching | None
    joint: JointMatching | None
    encoder_cosine: Float64[np.ndarray, " n"] | None
    """Signed cosine of the encoders of every pair of ``absolute``; nan where one has no direction."""
    second_moment: NullDraws | None
    sign_flip: NullDraws | None

    @property
    def n_with_direction(self) -> tuple[int, int]:
        """Features of either run whose decoder row is not zero."""
        found = self.absolute
        return len(found.best_left) - found.n_excluded_left, len(found.best_right) - found.n_excluded_right

    @property
    def matchings(self) -> dict[str, Matching]:
        """The matchings that were made, by what they are of."""
        found = {
            "all features": self.absolute,
            "signed": self.signed,
            "alive features": self.alive,
            "duplicates merged": self.merged,
            "decoder and encoder": None if self.joint is None else self.joint.matching,
        }
        return {name: matching for name, matching in found.items() if matching is not None}

    @property
    def nulls(self) -> dict[str, NullDraws]:
        """The nulls that were drawn, by name."""
        found = {"second-moment null": self.second_moment, "sign-flip null": self.sign_flip}
        return {name: null for name, null in found.items() if null is not None}

    @property
    def certified(self) -> bool:
        """Whether every matching, those of the nulls included, is proven optimal."""
        proven = [found.certified for found in self.matchings.values()]
        return all(proven + [null.certified for null in self.nulls.values()])

    @property
    def stopped(self) -> list[str]:
        """Matchings that ended before the proof, and why."""
        found = [f"{name}: {matching.stopped}" for name, matching in self.matchings.items() if matching.stopped]
        return found + [f"{name}: {reason}" for name, null in self.nulls.items() for reason in null.stopped]


def histogram_edges(n_bins: int) -> Float64[np.ndarray, " edges"]:
    """Borders of equal bins of the absolute cosine."""
    return np.linspace(0.0, 1.0, n_bins + 1)


def find_distinct(run: Run, threshold: float) -> Distinct:
    """The duplicates of one run, and its decoder without them."""
    duplicates = find_duplicates(run.W_dec, threshold, run.name)
    if duplicates.n_duplicates == 0:
        return Distinct(duplicates, None)
    return Distinct(duplicates, merge_duplicates(run.W_dec, duplicates).astype(run.W_dec.dtype))


def n_steps(left: Run, right: Run, config: ConsistencyConfig) -> int:
    """Steps that :func:`compare_pair` takes for two runs."""
    optional = (config.signed, _both(left.alive, right.alive), config.merged, config.joint and _encoders(left, right))
    return 1 + sum(map(bool, optional)) + 2 * config.n_null_draws


def compare_pair(
    runs: Sequence[Run],
    a: int,
    b: int,
    seed: int,
    config: ConsistencyConfig,
    distinct: Sequence[Distinct] | None,
    step: Step,
) -> RunPair:
    """Match two runs in all the ways that the config asks for and their data allow.

    Args:
        runs: all runs.
        a, b: places of the two among the runs.
        seed: of the draws of the nulls.
        distinct: of every run; None leaves the matching without duplicates out.
        step: called before every matching.

    Raises:
        ValueError: as :func:`sae_core.matching.match` does.
    """
    left, right, budget = runs[a], runs[b], config.time_budget_s
    names, decoders = (left.name, right.name), (left.W_dec, right.W_dec)
    absolute = match(*decoders, names=names, time_budget_s=budget, progress=step("matching all features"))
    signed = alive = merged = None
    if config.signed:
        signed = match(*decoders, signed=True, names=names, time_budget_s=budget, progress=step("matching with signs"))
    if _both(left.alive, right.alive):
        alive = _match_alive(left, right, budget, step("matching alive features"))
    if distinct is not None:
        merged = _match_merged(left, right, distinct[a], distinct[b], absolute, budget, step("merging duplicates"))
    joint, encoder_cosine = _match_encoders(left, right, absolute, config, step)
    # The sign-flip null has the seed itself, as it had before there was another null.
    own_seed = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    return RunPair(
        a=a,
        b=b,
        absolute=absolute,
        signed=signed,
        alive=alive,
        merged=merged,
        joint=joint,
        encoder_cosine=encoder_cosine,
        second_moment=_draw(second_moment_matchings, "second-moment null", left, right, own_seed, config, step),
        sign_flip=_draw(sign_flip_matchings, "sign-flip null", left, right, seed, config, step),
    )


def _both(left: object, right: object) -> bool:
    return left is not None and right is not None


def _encoders(left: Run, right: Run) -> tuple[np.ndarray, np.ndarray] | None:
    return None if left.W_enc is None or right.W_enc is None else (left.W_enc, right.W_enc)


def _match_encoders(
    left: Run, right: Run, absolute: Matching, config: ConsistencyConfig, step: Step
) -> tuple[JointMatching | None, Float64[np.ndarray, " n"] | None]:
    """The joint matching, if it is asked for, and the encoder cosines of the pairs that the decoders make."""
    encoders = _encoders(left, right)
    if encoders is None:
        return None, None
    columns_a, columns_b = (_columns(W_enc, run.name) for W_enc, run in zip(encoders, (left, right), strict=True))
    cosine = paired_cosines(columns_a, columns_b, absolute.left, absolute.right)
    if not config.joint:
        return None, cosine
    joint = match_joint(
        left.W_dec,
        encoders[0],
        right.W_dec,
        encoders[1],
        names=(left.name, right.name),
        time_budget_s=config.time_budget_s,
        progress=step("matching decoders and encoders together"),
    )
    return joint, cosine


def _columns(W_enc: Float[np.ndarray, "d_in n"], name: str) -> Float[Tensor, "n d_in"]:
    """Encoder directions as rows; not finite ones are refused."""
    columns = as_matrix(W_enc, f"the encoder of {name}").T
    has_direction(columns, f"the encoder of {name} (columns as rows)")
    return columns


def _match_alive(left: Run, right: Run, budget: float | None, progress: Progress) -> Matching | None:
    if left.alive is None or right.alive is None:
        return None
    W_a, W_b = left.W_dec[left.alive], right.W_dec[right.alive]
    if not (W_a != 0).any() or not (W_b != 0).any():
        return None
    names = (f"{left.name} (alive features)", f"{right.name} (alive features)")
    return match(W_a, W_b, names=names, time_budget_s=budget, progress=progress)


def _match_merged(
    left: Run,
    right: Run,
    distinct_left: Distinct,
    distinct_right: Distinct,
    absolute: Matching,
    budget: float | None,
    progress: Progress,
) -> Matching:
    if distinct_left.merged is None and distinct_right.merged is None:
        return absolute
    W_a = left.W_dec if distinct_left.merged is None else distinct_left.merged
    W_b = right.W_dec if distinct_right.merged is None else distinct_right.merged
    names = (f"{left.name} (duplicates merged)", f"{right.name} (duplicates merged)")
    return match(W_a, W_b, names=names, time_budget_s=budget, progress=progress)


def _draw(
    draws: Callable[..., Iterator[Matching]],
    what: str,
    left: Run,
    right: Run,
    seed: int,
    config: ConsistencyConfig,
    step: Step,
) -> NullDraws | None:
    if config.n_null_draws == 0:
        return None
    edges, found = histogram_edges(config.n_histogram_bins), []
    counts = np.zeros(config.n_histogram_bins)
    matchings = draws(left.W_dec, right.W_dec, config.n_null_draws, seed, config.time_budget_s)
    for draw in range(config.n_null_draws):
        step(f"{what}, draw {draw + 1} of {config.n_null_draws}")
        null = next(matchings)
        counts += np.histogram(null.score, edges)[0]
        found.append((null.mcc, null.upper_bound, null.certified, null.stopped))
    mccs, bounds, certified, stopped = zip(*found, strict=True)
    return NullDraws(
        mcc=float(np.mean(mccs)),
        upper_bound=float(np.mean(bounds)),
        counts=counts / config.n_null_draws,
        certified=all(certified),
        stopped=tuple(reason for reason in stopped if reason),
    )
