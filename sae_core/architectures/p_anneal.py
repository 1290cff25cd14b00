"""p-annealed SAE (Karvonen et al. 2024): the L1 penalty turns into one of the p-th powers of the codes, p falling."""

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
class PAnneal(TrainableSae):
    """Codes are the rectified pre-activations, the penalty is ``coefficient * sum of codes ** p``.

    p takes ``n_updates`` values from 1 to ``p_end``, the first at ``anneal_start``, the last when training is over: as
    in dictionary_learning, the smallest p that is trained with is the last but one. Where p falls, the coefficient is
    scaled so that on the last ``n_recent`` batches the new penalty is as large as the old one.
    """

    architecture = "p_anneal"
    observes = True
    n_updated: Tensor
    """How often p was set; scalar."""
    coefficient: Tensor
    """Weight of the penalty now; scalar."""
    recent: Tensor
    """Sizes of the penalty with the p of now and with the next one, (n_recent, 2); NaN where no batch was seen yet."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float,
        p_end: float,
        anneal_start: float,
        n_updates: int = 10,
        n_recent: int = 10,
    ):
        super().__init__(d_in, d_sae)
        self.l1_coefficient, self.anneal_start = l1_coefficient, anneal_start
        self.powers = torch.linspace(1.0, p_end, n_updates).tolist()
        self.register_buffer("n_updated", torch.zeros((), dtype=torch.int64))
        self.register_buffer("coefficient", torch.tensor(l1_coefficient, dtype=torch.float64))
        self.register_buffer("recent", torch.full((n_recent, 2), torch.nan, dtype=torch.float64))

    @property
    def p(self) -> float:
        """Power of the codes in the penalty now."""
        return float(self.powers[max(0, int(self.n_updated) - 1)])

    @property
    def penalty(self) -> float:
        """Weight of the penalty now, before its warm-up."""
        return float(self.coefficient)

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return pre.relu()

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus the penalty of the class."""
        codes = self.encode(x)
        error = squared_error(x, self.decode(codes))
        penalty = codes.pow(self.p).sum(-1).mean()
        return Loss(error + self.penalty * moment.sparsity_scale * penalty, error, codes)

    def sparse_rule(self, moment: Moment) -> SparseRule:
        """All positive codes, under the penalty of now."""
        return SparseRule(penalty=self.penalty * moment.sparsity_scale, power=self.p)

    @torch.no_grad()
    def observe(self, values: Float[Tensor, " n_active"], n_tokens: int, moment: Moment) -> None:
        """Lower p when its time has come, and keep the penalty's size."""
        updated, values = int(self.n_updated), values.double()
        following = self.powers[min(updated, len(self.powers) - 1)]
        if updated > 0:
            sizes = [float(values.pow(p).sum()) / n_tokens for p in (self.p, following)]
            self.recent = torch.cat([self.recent[1:], self.recent.new_tensor([sizes])])
        if updated < len(self.powers) and moment.step >= self._update_step(updated, moment.n_steps):
            if updated > 0:
                now, after = self.recent.nanmean(0)
                self.coefficient *= now / after if after > 0 else 1.0
                self.recent.fill_(torch.nan)
            self.n_updated += 1

    def _update_step(self, i: int, n_steps: int) -> int:
        start = self.anneal_start * n_steps
        return int(start + (n_steps - start) * i / max(1, len(self.powers) - 1))

    def watched(self) -> dict[str, float]:
        """The power and the weight of the penalty."""
        return {"p": self.p, "penalty": self.penalty}

    def finished(self) -> Sae:
        """A Standard SAE."""
        return copied_into(Standard(self.d_in, self.d_sae, self.l1_coefficient), self)
