"""Many small SAEs that differ in their seed, trained at once as one stack. Part of the training stage.

For SAEs of a language model a step is one large product, and nothing is gained (``together`` trains those). SAEs of a
few dozen features are another matter: their steps are all overhead, and here ten of them cost a tenth of what the loop
takes for them, to the same result but for rounding.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Standard, TopK, TrainableSae
from sae_core.config import Config, StandardConfig, TopKConfig, TrainedConfig
from sae_core.kernel_options import torch_threads
from sae_core.training import stack_kernels as kernels

_BYTES_AT_ONCE = 1 << 25
"""Of the batches that one call of the kernel gets."""


@dataclass(frozen=True)
class StackSettings:
    """What the loss and the update are; see ``RecipeConfig`` for the fields that it shares."""

    rates: Float[np.ndarray, " n_steps"]
    """Learning rate of every step."""
    unit_decoder: bool = True
    grad_clip: float | None = None
    mean_error: bool = False
    """Divide the squared error by d_in."""
    code_l1: float = 0.0
    """Weight of the L1 penalty on the codes of a TopK SAE."""


@dataclass(frozen=True)
class StackCurve:
    """What was seen while training, for every SAE and step, before that step."""

    error: Float[np.ndarray, "n_saes n_steps"]
    """Squared error summed over d_in, mean over the batch."""
    l0: Float[np.ndarray, "n_saes n_steps"]


def stackable(variant: TrainedConfig) -> bool:
    """Whether the kernels know this variant: TopK or Standard without options."""
    plain: Config
    if isinstance(variant, TopKConfig):
        plain = TopKConfig(d_sae=variant.d_sae, k=variant.k, aux_k_coefficient=0, lr=variant.lr)
        return variant.model_copy(update={"aux_k": None}) == plain
    if isinstance(variant, StandardConfig):
        return variant == StandardConfig(d_sae=variant.d_sae, l1_coefficient=variant.l1_coefficient, lr=variant.lr)
    return False


def train_stack(
    saes: Sequence[TrainableSae],
    batches: Iterable[Float[Tensor, "... _ batch d_in"]],
    settings: StackSettings,
    *,
    keep_after: Sequence[int] = (),
    on_kept: Callable[[int], None] | None = None,
    on_steps: Callable[[int], None] | None = None,
) -> StackCurve:
    """Train SAEs in place, all of them on the same batches (or each on its own).

    Args:
        saes: TopK SAEs, or Standard SAEs, with the same settings and sizes; the weights they have are where they start.
        batches: blocks of consecutive batches, ``(some, batch, d_in)``, or ``(n_saes, some, batch, d_in)`` with those
            of each SAE; as many in all as there are ``settings.rates``; what is left over is not read.
        keep_after: numbers of steps after which ``on_kept`` is called, when the SAEs have the weights they have then;
            0 is before the first.
        on_steps: told how many steps are done, now and then.

    Raises:
        ValueError: if the SAEs differ in more than their weights or are of another architecture, the batches have
            another width or end early, or an SAE diverges (the message says which, and when).
    """
    k, penalty = _rule(saes, settings)
    first, n_steps = saes[0], len(settings.rates)
    weights = _stacked(saes)
    means, squares = ([np.zeros_like(one) for one in weights] for _ in range(2))
    curve = StackCurve(*(np.empty((len(saes), n_steps), np.float32) for _ in range(2)))
    kept = sorted(step for step in set(keep_after) if 0 <= step <= n_steps)
    done = 0
    if 0 in kept and on_kept:
        on_kept(0)
    for part in _parts(batches, n_steps, kept, first.d_in, len(saes)):
        size = part.shape[1]
        told = np.empty((len(saes), size, 3), np.float32)
        rates = np.asarray(settings.rates[done : done + size], np.float64)
        with torch_threads():
            kernels.advance(
                part, tuple(weights), tuple(means), tuple(squares), done, rates, k,
                1 / first.d_in if settings.mean_error else 1.0, penalty, settings.unit_decoder,
                settings.grad_clip or 0.0, told,
            )  # fmt: skip
        _check_finite(told, weights, done)
        curve.error[:, done : done + size], curve.l0[:, done : done + size] = told[:, :, 0], told[:, :, 2]
        done += size
        if done in kept and on_kept:
            _write_back(saes, weights)
            on_kept(done)
        if on_steps:
            on_steps(done)
    _write_back(saes, weights)
    return curve


def _rule(saes: Sequence[TrainableSae], settings: StackSettings) -> tuple[int, float]:
    """How many codes a sample keeps (0: every positive one), and the weight of the L1 penalty."""
    if not saes:
        raise ValueError("a stack needs at least one SAE: got none; pass one for each seed")
    rules = {(type(sae), sae.d_in, sae.d_sae, _numbers(sae)) for sae in saes}
    if len(rules) > 1:
        raise ValueError(f"SAEs of a stack differ in their weights only: got {sorted(map(str, rules))}")
    first = saes[0]
    if isinstance(first, TopK) and not (first.aux_k_coefficient or first.l1_coefficient or first.k_anneal):
        return first.k, settings.code_l1
    if isinstance(first, Standard) and first.l1_coefficient is not None:
        return 0, first.l1_coefficient
    raise ValueError(
        f"a stack trains TopK SAEs without options and Standard SAEs: got {first.architecture} with {_numbers(first)}; "
        "use train_together"
    )


def _numbers(sae: TrainableSae) -> str:
    names = ("k", "l1_coefficient", "aux_k_coefficient", "k_anneal")
    return ", ".join(f"{name}={getattr(sae, name)}" for name in names if hasattr(sae, name))


def _stacked(saes: Sequence[TrainableSae]) -> list[Float[np.ndarray, "..."]]:
    """Encoder and decoder rows and both biases; copies."""
    parts = [(sae.W_enc.T, sae.W_dec, sae.b_enc, sae.b_dec) for sae in saes]
    return [np.stack([np.ascontiguousarray(one.detach().numpy()) for one in each]) for each in zip(*parts, strict=True)]


@torch.no_grad()
def _write_back(saes: Sequence[TrainableSae], weights: Sequence[Float[np.ndarray, "..."]]) -> None:
    for place, sae in enumerate(saes):
        enc, dec, enc_bias, dec_bias = (torch.from_numpy(one[place]) for one in weights)
        sae.W_enc.copy_(enc.T)
        sae.W_dec.copy_(dec)
        sae.b_enc.copy_(enc_bias)
        sae.b_dec.copy_(dec_bias)


def _parts(
    batches: Iterable[Tensor], n_steps: int, kept: Sequence[int], d_in: int, n_saes: int
) -> Iterator[Float[np.ndarray, "n some batch d_in"]]:
    """The batches in pieces that end where weights are kept, and are not too large."""
    done, stops = 0, [step for step in kept if step > 0] + [n_steps]
    for block in batches:
        whole = block if block.ndim == 4 else block[None]
        if whole.shape[3] != d_in or len(whole) not in (1, n_saes):
            raise ValueError(
                f"batches must be (n_steps, batch, {d_in}), or that for each of {n_saes} SAEs: got {tuple(block.shape)}"
            )
        at, most = 0, max(1, _BYTES_AT_ONCE // (4 * whole[:, 0].numel()))
        while at < whole.shape[1] and done < n_steps:
            size = min(most, whole.shape[1] - at, min(stop for stop in stops if stop > done) - done)
            yield np.ascontiguousarray(whole[:, at : at + size].numpy())
            at, done = at + size, done + size
        if done == n_steps:
            return
    raise ValueError(f"the batches ended after {done} steps, expected {n_steps}; give more, or lower n_steps")


def _check_finite(
    told: Float[np.ndarray, "n_saes some 3"], weights: Sequence[Float[np.ndarray, "..."]], done: int
) -> None:
    finite = np.isfinite(told[:, :, 0])
    if not finite.all():
        place, step = np.argwhere(~finite)[0]
        raise ValueError(f"SAE {place} of the stack diverged at step {done + step}; lower lr, or add warmup_steps")
    for one in weights:
        bad = ~np.isfinite(one.reshape(len(one), -1)).all(axis=1)
        if bad.any():
            place, step = int(bad.argmax()), done + told.shape[1]
            raise ValueError(f"SAE {place} of the stack diverged at step {step}; lower lr, or add warmup_steps")
