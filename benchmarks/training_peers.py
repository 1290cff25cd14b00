"""One training step of dictionary_learning, SAELens and sparsify, as their own trainers do it, from weights of ours.

Every step is whole: loss, backward pass, projection and clipping where the library does it, Adam, schedules, counts of
dead features. Steps are numbered from ``FIRST_STEP``, when warm-ups are over and running thresholds are kept.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from benchmarks.dictionary_learning_trainers import make_trainer, set_weights
from sae_core.architectures import PAnneal, Sae, TrainableSae
from sae_core.config import SaeConfig

Step = Callable[[Tensor], object]

FIRST_STEP, N_STEPS = 2_000, 100_000
LONG_DEAD = 10**9
"""Tokens or batches since a feature fired, in every library far beyond where it counts as dead."""


def dictionary_learning(config: SaeConfig, sae: TrainableSae, n_dead: int) -> tuple[Step, Callable[[Tensor], float]]:
    """A step of the trainer of this architecture, and the L0 of its SAE."""
    variant = config.model_dump()
    trainer = make_trainer(variant, sae.d_in, N_STEPS, lr=1e-5)
    set_weights(trainer.ae, dict(sae.named_parameters()))
    if isinstance(sae, PAnneal):
        trainer.p, trainer.next_p = sae.p, sae.powers[int(sae.n_updated)]
    steps = count(FIRST_STEP)

    def step(x: Tensor) -> object:
        if n_dead and hasattr(trainer, "num_tokens_since_fired"):
            trainer.num_tokens_since_fired[:n_dead] = LONG_DEAD
        return trainer.update(next(steps), x)

    def l0(x: Tensor) -> float:
        selects = "topk" in variant["architecture"]
        codes = trainer.ae.encode(x, use_threshold=False) if selects else trainer.ae.encode(x)
        return float((codes > 0).sum()) / len(x)

    return step, l0


def saelens(sae: Sae, n_dead: int, *, sparse: bool) -> Step:
    """A step of SAELens' TopK trainer; ``sparse``: codes as sparse tensors. Without its rescaling by decoder norms."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        k=sae.k,
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=False,
        aux_loss_coefficient=sae.aux_k_coefficient,
    )
    theirs = TopKTrainingSAE(config)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            getattr(theirs, name).copy_(getattr(sae, name))
    training = SAETrainerConfig(
        total_training_samples=2048 * N_STEPS, train_batch_size_samples=2048, lr=1e-5, lr_end=1e-6
    )
    trainer: Any = SAETrainer(training, theirs, iter(()))

    def step(x: Tensor) -> object:
        if n_dead:
            trainer.n_forward_passes_since_fired[:n_dead] = LONG_DEAD
        output = trainer.step(x)
        trainer.n_training_steps += 1
        return output.loss.item()

    return step


def sparsify(sae: Sae, n_dead: int) -> Step:
    """A step as in sparsify's training loop (which wants a language model and is no function), with its Adam."""
    from sparsify import SparseCoder, SparseCoderConfig

    theirs = SparseCoder(sae.d_in, SparseCoderConfig(num_latents=sae.d_sae, k=sae.k), dtype=torch.float32)
    with torch.no_grad():
        theirs.encoder.weight.copy_(sae.W_enc.T)
        theirs.encoder.bias.copy_(sae.b_enc)
        theirs.W_dec.copy_(sae.W_dec)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-5)
    since_fired = torch.zeros(sae.d_sae, dtype=torch.long)
    aux_weight = sae.aux_k_coefficient if n_dead else 0.0

    def step(x: Tensor) -> object:
        since_fired[:n_dead] = LONG_DEAD
        theirs.set_decoder_norm_to_unit_norm()
        dead = since_fired > 10_000_000 if aux_weight else None
        variance = (x - x.mean(0)).pow(2).sum()
        out = theirs(x=x, y=x, dead_mask=dead, total_variance=variance)
        fired = torch.zeros(sae.d_sae, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        loss = out.fvu + aux_weight * out.auxk_loss + out.multi_topk_fvu / 8
        loss.backward()
        theirs.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        since_fired.add_(len(x))
        since_fired[fired] = 0
        return float(out.fvu.detach())

    return step
