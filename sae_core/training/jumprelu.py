"""Closed-form gradients of JumpReLU SAEs: what is above its threshold, or close below. Part of the training stage."""

from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import JumpReLU, Moment
from sae_core.architectures.trainable import needed
from sae_core.training.autograd import BatchNumbers
from sae_core.training.closed_form import (
    ClosedForm,
    Nested,
    WeightGradients,
    by_feature,
    reconstruct,
    sums_by_feature,
)
from sae_core.training.codes import positive


@final
class JumpReLUGradients(ClosedForm):
    """Pre-activations above their threshold are codes; those within half a bandwidth of it move the threshold.

    The window of L0 lies over the codes: where a threshold is within half a bandwidth of zero, every inactive entry
    counts too, for which their number suffices. See ``JumpReLU.loss``; a negative threshold makes negative codes.
    """

    def __init__(self, sae: JumpReLU):
        super().__init__(sae)
        self._sae = sae

    def _over_codes(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers | None:
        sae, half = self._sae, self._sae.bandwidth / 2
        thresholds, d_sae = sae.threshold.numpy(), sae.d_sae
        near = positive(x, sae.W_enc.T, sae.b_enc - sae.threshold + half)
        if near is None:
            return None
        feature, nested = near.feature, Nested.whole(sae)
        threshold = thresholds[feature]
        above = near.value - half  # by so much a pre-activation exceeds its threshold
        value = np.where(above > 0, above + threshold, np.float32(0))
        found = reconstruct(x - sae.b_dec, sae, near, value, nested)
        active = by_feature(near, value, found.by_code * (above > 0), d_sae)
        weights = WeightGradients(sae)
        weights.add(x, active, found.gradient, nested)
        sae.b_enc.grad, sae.b_dec.grad = weights.bias, found.gradient[0].sum(0)

        n_zero = len(x) - torch.from_numpy(active.counts())  # tokens on which a feature is far below its threshold
        n_above = sums_by_feature(near, value > threshold, d_sae) + n_zero * (sae.threshold < 0)
        in_window = np.abs(value - threshold) < half
        n_in_window = sums_by_feature(near, in_window, d_sae) + n_zero * (sae.threshold.abs() < half)
        target = needed(sae, "target_l0")
        excess = float(n_above.sum()) / len(x) / target - 1
        weight = sae.sparsity_coefficient * moment.sparsity_scale
        by_l0 = 2 * weight * excess / target / len(x)
        by_code = sums_by_feature(near, found.by_code * (np.abs(above) < half), d_sae)
        sae.threshold.grad = (-(sae.threshold * by_code + by_l0 * n_in_window) / sae.bandwidth).float()
        n_fired = sums_by_feature(near, value > 0, d_sae)
        loss = float(found.errors[0]) + weight * excess**2
        return BatchNumbers(loss, float(found.errors[0]), float(n_fired.sum()) / len(x), n_fired > 0)
