"""Closed-form gradients of Gated SAEs: two reconstructions from the same features. Part of the training stage."""

from typing import final

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Gated, Moment
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
class GatedGradients(ClosedForm):
    """Codes ``relu(h exp(r_mag) + b_mag)`` and gates ``h + b_gate``, both of the features whose gate is positive.

    The codes' gradient is that of their error; the gates' is that of theirs, in which W_dec and b_dec are constants,
    plus that of the penalty. Both reach ``h``.
    """

    def __init__(self, sae: Gated):
        super().__init__(sae)
        self._sae = sae

    def _over_codes(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers | None:
        sae = self._sae
        centred = x - sae.b_dec
        gates = positive(centred, sae.W_enc.T, sae.b_gate)
        if gates is None:
            return None
        feature, nested = gates.feature, Nested.whole(sae)
        scale = np.exp(sae.r_mag.numpy())[feature]
        scaled = (gates.value - sae.b_gate.numpy()[feature]) * scale
        value = np.maximum(scaled + sae.b_mag.numpy()[feature], 0)
        found = reconstruct(centred, sae, gates, value, nested)
        from_gates = reconstruct(centred, sae, gates, gates.value, nested)
        penalty = needed(sae, "l1_coefficient") * moment.sparsity_scale / len(x)
        by_gate = from_gates.by_code + np.float32(penalty)
        by_magnitude = found.by_code * (value > 0)
        by_pre = by_magnitude * scale + by_gate
        sae.b_gate.grad = sums_by_feature(gates, by_gate, sae.d_sae).float()
        sae.b_mag.grad = sums_by_feature(gates, by_magnitude, sae.d_sae).float()
        sae.r_mag.grad = sums_by_feature(gates, by_magnitude * scaled, sae.d_sae).float()
        active = by_feature(gates, value, by_pre, sae.d_sae)
        weights = WeightGradients(sae)
        weights.add(centred, active, found.gradient, nested)
        sae.b_dec.grad = found.gradient[0].sum(0) - sae.W_enc @ weights.bias
        loss = float(found.errors[0] + from_gates.errors[0]) + penalty * gates.total()
        n_fired = sums_by_feature(gates, value > 0, sae.d_sae)
        return BatchNumbers(loss, float(found.errors[0]), float(n_fired.sum()) / len(x), n_fired > 0)
