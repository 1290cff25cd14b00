"""JumpReLU SAE (Rajamanoharan et al. 2024b), and BatchTopK or Matryoshka SAEs in use: read and run, not trained."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.architectures.base import TRAINED_HERE, Conventions, Sae


@final
class JumpReLU(Sae):
    """Codes are the pre-activations above each feature's ``threshold``, and zero where that is negative."""

    architecture = "jumprelu"
    in_activation_units = ("b_enc", "b_dec", "threshold")

    def __init__(self, d_in: int, d_sae: int, conventions: Conventions = TRAINED_HERE):
        super().__init__(d_in, d_sae, conventions)
        self.threshold = nn.Parameter(torch.zeros(d_sae))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return pre.relu() * (pre > self.threshold)
