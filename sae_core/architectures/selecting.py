"""What the SAEs that keep a number of the largest codes share: k, and the auxiliary loss that revives dead features."""

from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.base import TRAINED_HERE, Conventions
from sae_core.architectures.trainable import Moment, TrainableSae, auxiliary_loss


class SelectingSae(TrainableSae):
    """About ``k`` codes of a token stay; which, the architecture says. ``aux_k`` None takes half of d_in."""

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

    def auxiliary(
        self, pre: Float[Tensor, "batch d_sae"], residual: Float[Tensor, "batch d_in"], moment: Moment
    ) -> Float[Tensor, ""]:
        """Aux-k with its weight; zero without dead features."""
        dead = moment.dead
        if dead is None or self.aux_k_coefficient == 0:
            return residual.new_zeros(())
        return self.aux_k_coefficient * auxiliary_loss(pre[:, dead], self.W_dec[dead], residual.detach(), self.aux_k)
