"""Gated SAE (Rajamanoharan et al. 2024a): one path says whether a feature is on, the other how much. Not trained."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.architectures.base import TRAINED_HERE, Conventions, Sae


@final
class Gated(Sae):
    """With ``h = (x - b_dec) W_enc``: codes are ``relu(h exp(r_mag) + b_mag)`` where ``h + b_gate > 0``, else zero."""

    architecture = "gated"
    in_activation_units = ("b_gate", "b_mag", "b_dec")

    def __init__(self, d_in: int, d_sae: int, conventions: Conventions = TRAINED_HERE):
        super().__init__(d_in, d_sae, conventions)
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
