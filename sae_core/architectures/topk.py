"""TopK SAE (Gao et al. 2024): sparsity by construction, dead features revived by an auxiliary loss."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.base import TRAINED_HERE, Conventions
from sae_core.architectures.selecting import SelectingSae
from sae_core.architectures.trainable import (
    WITHOUT_WARMUP,
    Loss,
    Moment,
    SparseRule,
    keep_largest,
    squared_error,
)


@final
class TopK(SelectingSae):
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
        l1_coefficient: float = 0.0,
        k_anneal: float = 0.0,
        conventions: Conventions = TRAINED_HERE,
    ):
        super().__init__(d_in, d_sae, k, aux_k, aux_k_coefficient, conventions)
        self.l1_coefficient, self.k_anneal = l1_coefficient, k_anneal

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return keep_largest(pre.relu(), self.k)

    def k_at(self, moment: Moment) -> int:
        """Features kept at a moment: falling linearly from d_in to k while k is annealed (He et al. 2024)."""
        start = max(self.k, min(self.d_in, self.d_sae - 1))
        passed = moment.step / (self.k_anneal * moment.n_steps) if self.k_anneal > 0 else 1.0
        return round(start + (self.k - start) * min(1.0, passed))

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus aux-k, and L1 on what was not selected where that is asked for."""
        pre = self.pre_activations(x)
        codes = keep_largest(pre.relu(), self.k_at(moment))
        x_hat = self.decode(codes)
        error = squared_error(x, x_hat)
        total = error + self.auxiliary(pre, x - x_hat, moment)
        if self.l1_coefficient > 0:
            total = total + self.l1_coefficient * moment.sparsity_scale * _off_support(pre, codes.detach() > 0)
        return Loss(total, error, codes)

    def sparse_rule(self, moment: Moment) -> SparseRule | None:
        """The largest codes of a token, unless features that were not selected are penalised."""
        if self.l1_coefficient > 0:
            return None
        return SparseRule(k=self.k_at(moment), aux_k=self.aux_k, aux_coefficient=self.aux_k_coefficient)


def _off_support(pre: Float[Tensor, "batch d_sae"], selected: Tensor) -> Float[Tensor, ""]:
    """L1 of the rectified pre-activations that were not selected, of features that some token of the batch selected.

    Sum over features, mean over the batch (Jacquier et al. 2026, arXiv 2606.27321).
    """
    return (pre.relu() * (~selected & selected.any(0))).sum(-1).mean()
