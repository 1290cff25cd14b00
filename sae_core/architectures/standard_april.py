"""Standard SAE of the April update (Conerly et al. 2024): the L1 penalty weighted by the length of decoder rows."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.base import Sae
from sae_core.architectures.standard import Standard
from sae_core.architectures.trainable import (
    WITHOUT_WARMUP,
    Loss,
    Moment,
    SparseRule,
    TrainableSae,
    copied_into,
    squared_error,
)


@final
class StandardApril(TrainableSae):
    """Codes are the rectified pre-activations; decoder rows may have any length, which the penalty counts in."""

    architecture = "standard_april"
    unit_decoder = False

    def __init__(self, d_in: int, d_sae: int, l1_coefficient: float):
        super().__init__(d_in, d_sae)
        self.l1_coefficient = l1_coefficient

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return pre.relu()

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus the weighted sum of a token's codes, each times its decoder row's length."""
        codes = self.encode(x)
        error = squared_error(x, self.decode(codes))
        penalty = (codes * self.W_dec.norm(dim=1)).sum(-1).mean()
        return Loss(error + self.l1_coefficient * moment.sparsity_scale * penalty, error, codes)

    def sparse_rule(self, moment: Moment) -> SparseRule:
        """All positive codes, under an L1 penalty that counts the length of decoder rows."""
        return SparseRule(penalty=self.l1_coefficient * moment.sparsity_scale, by_length=True)

    @torch.no_grad()
    def finished(self) -> Sae:
        """A Standard SAE that computes the same, with decoder rows of unit length and codes as much larger."""
        sae = copied_into(Standard(self.d_in, self.d_sae, self.l1_coefficient), self)
        length = self.W_dec.norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        sae.W_dec.div_(length[:, None])
        sae.W_enc.mul_(length)
        sae.b_enc.mul_(length)
        return sae
