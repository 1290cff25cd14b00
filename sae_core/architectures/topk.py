"""TopK SAE (Gao et al. 2024): sparsity by construction, dead features revived by an auxiliary loss."""

from typing import final

from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures.base import (
    TRAINED_HERE,
    Conventions,
    Loss,
    SparseRule,
    TrainableSae,
    auxiliary_loss,
    keep_largest,
    squared_error,
)


@final
class TopK(TrainableSae):
    """Codes are the ``k`` largest rectified pre-activations; a token with fewer positive ones has fewer codes."""

    architecture = "topk"
    encode_settings = ("k",)

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        aux_k: int | None = None,
        aux_k_coefficient: float = 0.0,
        conventions: Conventions = TRAINED_HERE,
    ):
        super().__init__(d_in, d_sae, conventions)
        if not 1 <= k < d_sae:
            raise ValueError(f"k must be at least 1 and smaller than d_sae={d_sae}: got {k}; lower k or raise d_sae")
        self.k = k
        self.aux_k = max(1, d_in // 2) if aux_k is None else aux_k
        self.aux_k_coefficient = aux_k_coefficient

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return keep_largest(pre.relu(), self.k)

    def loss(
        self,
        x: Float[Tensor, "batch d_in"],
        sparsity_scale: float = 1.0,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> Loss:
        """Reconstruction error plus aux-k; ``sparsity_scale`` plays no part, since there is no penalty."""
        pre = self.pre_activations(x)
        codes = self.activate(pre)
        x_hat = self.decode(codes)
        total = error = squared_error(x, x_hat)
        if dead is not None and self.aux_k_coefficient > 0:
            auxiliary = auxiliary_loss(pre[:, dead], self.W_dec[dead], (x - x_hat).detach(), self.aux_k)
            total = error + self.aux_k_coefficient * auxiliary
        return Loss(total, error, codes)

    def sparse_rule(self) -> SparseRule:
        """The fast step applies."""
        return SparseRule(k=self.k, aux_k=self.aux_k, aux_coefficient=self.aux_k_coefficient)
