"""Standard SAE (Bricken et al. 2023): ReLU codes under an L1 penalty."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.base import TRAINED_HERE, Conventions
from sae_core.architectures.trainable import (
    WITHOUT_WARMUP,
    Loss,
    Moment,
    SparseRule,
    TrainableSae,
    needed,
    squared_error,
)


@final
class Standard(TrainableSae):
    """Codes are the rectified pre-activations. The penalty needs decoder rows of unit length, which training keeps."""

    architecture = "standard"
    can_resample = True
    loss_needs = "l1_coefficient"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float | None = None,
        conventions: Conventions = TRAINED_HERE,
    ):
        """``l1_coefficient`` None is an SAE to use, not to train: one from a file that does not tell it."""
        super().__init__(d_in, d_sae, conventions)
        self.l1_coefficient = l1_coefficient

    @property
    def _l1(self) -> float:
        return needed(self, "l1_coefficient")

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return pre.relu()

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus ``l1_coefficient * sparsity_scale`` times the sum of a token's codes."""
        codes = self.encode(x)
        error = squared_error(x, self.decode(codes))
        penalty = codes.sum(-1).mean()
        return Loss(error + self._l1 * moment.sparsity_scale * penalty, error, codes)

    def sparse_rule(self, moment: Moment) -> SparseRule:
        """All positive codes, under an L1 penalty."""
        return SparseRule(penalty=self._l1 * moment.sparsity_scale)
