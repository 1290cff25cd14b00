"""Closed-form gradients of the SAEs whose codes are positive pre-activations: all, or the largest of them.

Which of them an SAE is, its ``sparse_rule`` says. Part of the training stage.
"""

from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Moment, SparseRule, TrainableSae
from sae_core.training import codes as selection
from sae_core.training.autograd import BatchNumbers
from sae_core.training.auxiliary import add_auxiliary_gradients
from sae_core.training.closed_form import (
    ByFeature,
    ClosedForm,
    Nested,
    WeightGradients,
    by_feature,
    reconstruct,
)
from sae_core.training.codes import Codes


@final
class RectifiedGradients(ClosedForm):
    """SAEs with a ``SparseRule``. A code's gradient is that of the error plus that of the penalty."""

    def __init__(self, sae: TrainableSae):
        super().__init__(sae)
        self._sae = sae

    def _over_codes(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers | None:
        sae, rule = self._sae, self._sae.sparse_rule(moment)
        assert rule is not None, "an SAE has a sparse rule always or never"
        centred = x - sae.b_dec
        codes = _select(centred, sae, rule)
        if codes is None:
            return None
        nested = _nested(sae, rule)
        found = reconstruct(centred, sae, codes, codes.value, nested)
        active = by_feature(codes, codes.value, found.by_code, sae.d_sae)
        loss = float(nested.weight @ found.errors)
        lengths = sae.W_dec.norm(dim=1) if rule.by_length else None
        if rule.penalty:
            loss += _add_penalty(active, rule, lengths, len(x))
        weights = WeightGradients(sae)
        weights.add(centred, active, found.gradient, nested)
        if lengths is not None:
            _add_gradient_of_lengths(sae, active, rule.penalty / len(x), lengths)
        if moment.dead is not None and rule.aux_coefficient > 0:
            residual = found.gradient[-1] * (-len(x) / (2 * float(nested.weight[-1])))
            auxiliary = (moment.dead, rule.aux_k, rule.aux_coefficient)
            loss += add_auxiliary_gradients(sae, weights, centred, residual, *auxiliary)
        sae.b_enc.grad = weights.bias
        sae.b_dec.grad = found.gradient[0].sum(0) - sae.W_enc @ weights.bias
        fired = torch.from_numpy(active.counts() > 0)
        values = torch.from_numpy(active.value) if sae.observes else None
        return BatchNumbers(loss, float(found.errors[-1]), len(active.value) / len(x), fired, values)


def _select(centred: Float[Tensor, "batch d_in"], sae: TrainableSae, rule: SparseRule) -> Codes | None:
    encoder = (sae.W_enc.T, sae.b_enc)
    if rule.k is None:
        return selection.positive(centred, *encoder)
    if rule.k > selection.DENSE_SHARE * sae.d_sae:
        return None
    if rule.over_batch:
        return selection.largest_of_batch(centred, *encoder, rule.k * len(centred))
    return selection.largest(centred, *encoder, rule.k)


def _nested(sae: TrainableSae, rule: SparseRule) -> Nested:
    if not rule.nested:
        return Nested.whole(sae)
    ends, weights = zip(*rule.nested, strict=True)
    return Nested(np.array(ends), np.array(weights, np.float32))


def _add_penalty(codes: ByFeature, rule: SparseRule, lengths: Float[Tensor, " d_sae"] | None, n_tokens: int) -> float:
    """Add the penalty's derivative to the gradient of each code; returns the penalty.

    By numpy: the threads of torch would share out the powers, and compute some of them one by one.
    """
    weight = np.full(len(codes.value), rule.penalty / n_tokens, np.float32)
    if lengths is not None:
        weight *= np.repeat(lengths.numpy(), codes.counts())
    if rule.power == 1:
        codes.gradient[:] += weight
    else:
        codes.gradient[:] += weight * np.float32(rule.power) * codes.value ** np.float32(rule.power - 1)
    return float((weight * codes.value ** np.float32(rule.power)).sum(dtype=np.float64))


def _add_gradient_of_lengths(
    sae: TrainableSae, codes: ByFeature, penalty: float, lengths: Float[Tensor, " d_sae"]
) -> None:
    """A row's length has the unit row as its gradient, and the sum of a feature's codes as its weight."""
    assert sae.W_dec.grad is not None
    feature = np.repeat(np.arange(sae.d_sae), codes.counts())
    total = torch.from_numpy(np.bincount(feature, codes.value, sae.d_sae)).float()
    sae.W_dec.grad.addcmul_(sae.W_dec, (penalty * total / lengths).nan_to_num(0.0)[:, None])
