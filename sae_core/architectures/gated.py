"""Gated SAE (Rajamanoharan et al. 2024a): one path says whether a feature is on, the other how much."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.architectures.base import TRAINED_HERE, Conventions
from sae_core.architectures.trainable import WITHOUT_WARMUP, Loss, Moment, TrainableSae, needed, squared_error


@final
class Gated(TrainableSae):
    """With ``h = (x - b_dec) W_enc``: codes are ``relu(h exp(r_mag) + b_mag)`` where ``h + b_gate > 0``, else zero."""

    architecture = "gated"
    in_activation_units = ("b_gate", "b_mag", "b_dec")
    adam_betas = (0.0, 0.999)
    loss_needs = "l1_coefficient"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float | None = None,
        conventions: Conventions = TRAINED_HERE,
    ):
        """``l1_coefficient`` None is an SAE to use, not to train."""
        super().__init__(d_in, d_sae, conventions)
        self.l1_coefficient = l1_coefficient
        # The two paths have biases of their own: b_enc stays zero and is no parameter.
        del self.b_enc
        self.register_buffer("b_enc", torch.zeros(d_sae), persistent=False)
        self.b_gate = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))
        self.r_mag = nn.Parameter(torch.zeros(d_sae))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        magnitude = pre * self.r_mag.exp() + self.b_mag
        return magnitude.relu() * (pre + self.b_gate > 0)

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error, the weighted sum of the gates, and the error of reconstructing from the gates alone.

        The last, the auxiliary task, teaches the gates; the decoder learns nothing from it.
        """
        pre = self.pre_activations(x)
        codes, gates = self.activate(pre), (pre + self.b_gate).relu()
        error = squared_error(x, self.decode(codes))
        from_gates = squared_error(x, gates @ self.W_dec.detach() + self.b_dec.detach())
        penalty = needed(self, "l1_coefficient") * moment.sparsity_scale * gates.sum(-1).mean()
        return Loss(error + penalty + from_gates, error, codes)
