"""Whether matched features also fire alike: correlation and common tokens of their activations. Of *consistency*.

Two features whose decoders point the same way may still fire on different tokens.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64

from sae_core.config import Result
from sae_core.consistency.correlations import Correlations, correlations, jaccard
from sae_core.consistency.neighbour_kernels import largest_few
from sae_core.consistency.sparse_codes import SparseCodes
from sae_core.encoder_products import linear
from sae_core.matching import Matching, match_scores, rows_with_direction, unit_rows
from sae_core.progress import Progress, silent

_BLOCK_ENTRIES = 1 << 22
"""Cosines in one block of a product: 16 MB."""
N_CANDIDATES = 5
"""Nearest features by decoder that are looked at beside the partner."""


def match_activations(
    a: SparseCodes,
    b: SparseCodes,
    signed: bool = False,
    time_budget_s: float | None = None,
    progress: Progress = silent,
) -> Matching:
    """The exact one-to-one matching of features by the absolute (or signed) correlation of their activations.

    The result's ``cosine`` is the signed correlation, and its ``mcc`` the mean over the matched pairs of features that
    vary; features that do not vary on these tokens have no correlation and are excluded, and counted.

    Args:
        a, b: codes of both runs on the same tokens.
        signed: maximise the correlation itself.
        time_budget_s: see :func:`sae_core.matching.match`.
        progress: called from inside the matching.

    Raises:
        ValueError: if the tokens differ in number, or no feature of a run varies.
    """
    found = match_scores(Correlations(a, b, signed), time_budget_s=time_budget_s, progress=progress)
    rows, columns = a.varies, b.varies
    left, right = rows[found.left], columns[found.right]
    n_a, n_b = a.codes.shape[0], b.codes.shape[0]
    return replace(
        found,
        left=left,
        right=right,
        cosine=correlations(a, b, left, right),
        best_left=_spread(rows, found.best_left, n_a, np.nan),
        best_right=_spread(columns, found.best_right, n_b, np.nan),
        nearest_left=_spread(rows, _numbers(columns, found.nearest_left), n_a, -1),
        nearest_right=_spread(columns, _numbers(rows, found.nearest_right), n_b, -1),
        signed=signed,
        n_excluded_left=n_a - len(rows),
        n_excluded_right=n_b - len(columns),
    )


def decoder_candidates(
    W_a: Float[np.ndarray, "n_a d_in"], W_b: Float[np.ndarray, "n_b d_in"], k: int = N_CANDIDATES
) -> Int64[np.ndarray, "n_a k"]:
    """For every feature of run a the k features of run b with the largest absolute decoder cosine, largest first.

    -1 for rows of zeros, and where run b has fewer than k features with a direction. A blocked product.
    """
    kept_a, kept_b = rows_with_direction(W_a, "left"), rows_with_direction(W_b, "right")
    given = ((W_a, kept_a), (W_b, kept_b))
    a, b = (unit_rows(torch.as_tensor(W), torch.from_numpy(kept), torch.float32) for W, kept in given)
    k_found, no_bias = min(k, len(b)), torch.zeros(len(b))
    out = np.full((len(W_a), k), -1)
    size = max(1, _BLOCK_ENTRIES // len(b))
    for start in range(0, len(a), size):
        cosine = linear(a[start : start + size], b, no_bias).numpy()
        values, places = np.empty((len(cosine), k_found), np.float32), np.empty((len(cosine), k_found), np.int64)
        largest_few(cosine, values, places)
        out[kept_a[start : start + size], :k_found] = kept_b[places]
    return out


class ActivationAgreement(Result):
    """Whether two runs' matched features (by decoder) fire alike on the same tokens."""

    n_tokens: int
    """Tokens looked at."""
    n_matched: int
    """Matched pairs of features."""
    n_compared: int
    """Those of them of which both features vary on these tokens; the others have no correlation."""
    mean_correlation: float | None
    """Mean absolute Pearson correlation of their activations; None when nothing could be compared."""
    mean_jaccard: float | None
    """Mean share of tokens on which both fire, of those on which one does."""
    mean_best_candidate: float | None
    """Mean over the features of the first run that vary of the largest absolute correlation with one of their
    nearest five features by decoder."""
    share_partner_best: float | None
    """Share of the compared pairs in which no such candidate correlates better than the partner."""
    pw_mcc_activations: float | None
    """Mean absolute correlation under the matching that is best for it; over the features that vary."""
    upper_bound: float | None
    """No matching gives a larger ``pw_mcc_activations``."""
    share_same_partner: float | None
    """Share of the compared pairs that this matching makes too."""
    reason: str | None
    """Why values are None."""


def activation_agreement(
    a: SparseCodes,
    b: SparseCodes,
    left: Int64[np.ndarray, " n"],
    right: Int64[np.ndarray, " n"],
    candidates: Int64[np.ndarray, "n_a k"],
    own_matching: bool = True,
    time_budget_s: float | None = None,
    progress: Progress = silent,
) -> ActivationAgreement:
    """Set the decoder matching of two runs beside their activations.

    Args:
        a, b: activations of both runs on the same tokens.
        left, right: features matched by their decoders.
        candidates: of :func:`decoder_candidates`.
        own_matching: match by activations too.
        time_budget_s: of that matching.

    Raises:
        ValueError: if the tokens differ in number.
    """
    r = np.abs(correlations(a, b, left, right))
    together = jaccard(a, b, left, right)
    compared = np.isfinite(r)
    if not compared.any():
        return _nothing_to_compare(a, len(left))
    feature, place = np.nonzero(candidates >= 0)
    best = np.full(len(candidates), -np.inf)
    r_candidates = np.abs(correlations(a, b, feature, candidates[feature, place]))
    np.maximum.at(best, feature, np.where(np.isnan(r_candidates), -np.inf, r_candidates))
    own = match_activations(a, b, time_budget_s=time_budget_s, progress=progress) if own_matching else None
    same = None
    if own is not None:
        partner = np.full(len(candidates), -1)
        partner[own.left] = own.right
        same = float((partner[left] == right)[compared].mean())
    return ActivationAgreement(
        n_tokens=a.n_tokens,
        n_matched=len(r),
        n_compared=int(compared.sum()),
        mean_correlation=float(r[compared].mean()),
        mean_jaccard=float(together[compared].mean()),
        mean_best_candidate=float(best[np.isfinite(best)].mean()) if np.isfinite(best).any() else None,
        share_partner_best=float((r >= best[left] - 1e-6)[compared].mean()),
        pw_mcc_activations=None if own is None else own.mcc,
        upper_bound=None if own is None else own.upper_bound,
        share_same_partner=same,
        reason=None if own else "not matched by activations: own_matching is off",
    )


def _nothing_to_compare(a: SparseCodes, n_matched: int) -> ActivationAgreement:
    return ActivationAgreement(
        n_tokens=a.n_tokens,
        n_matched=n_matched,
        n_compared=0,
        mean_correlation=None,
        mean_jaccard=None,
        mean_best_candidate=None,
        share_partner_best=None,
        pw_mcc_activations=None,
        upper_bound=None,
        share_same_partner=None,
        reason=f"no matched pair of which both features vary on the {a.n_tokens:,} tokens",
    )


def _spread(places: Int64[np.ndarray, " m"], values: np.ndarray, n: int, elsewhere: int | float) -> np.ndarray:
    """The values at their places of n."""
    out = np.full(n, elsewhere, values.dtype)
    out[places] = values
    return out


def _numbers(features: Int64[np.ndarray, " m"], places: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Features at these places; -1 stays."""
    return np.where(places >= 0, features[places], -1)
