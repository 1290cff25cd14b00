"""One training step of dictionary_learning, SAELens and sparsify, as their own trainers do it, from weights of ours.

Every step is whole: loss, backward pass, projection and clipping where the library does it, Adam, schedules, counts of
dead features. Steps are numbered from ``FIRST_STEP``, when warm-ups are over and running thresholds are kept.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import torch

from sae_core.architectures import Sae

Step = Callable[[torch.Tensor], object]

FIRST_STEP, N_STEPS = 2_000, 100_000
LONG_DEAD = 10**9
"""Tokens or batches since a feature fired, in every library far beyond where it counts as dead."""
COMMON = {"steps": N_STEPS, "layer": 0, "lm_name": "", "lr": 1e-5, "warmup_steps": 1, "device": "cpu"}


def dictionary_learning(sae: Sae, n_dead: int) -> tuple[Step, Callable[[torch.Tensor], float]]:
    """A step of the trainer of this architecture, and the L0 of its SAE."""
    from dictionary_learning import trainers

    sizes = {"activation_dim": sae.d_in, "dict_size": sae.d_sae}
    k = {"k": getattr(sae, "k", None), "auxk_alpha": getattr(sae, "aux_k_coefficient", None)}
    l1 = {"l1_penalty": getattr(sae, "l1_coefficient", None), "sparsity_warmup_steps": None}
    if sae.architecture == "topk":
        trainer = trainers.top_k.TopKTrainer(**COMMON, **sizes, **k)
    elif sae.architecture == "batch_topk":
        trainer = trainers.batch_top_k.BatchTopKTrainer(**COMMON, **sizes, **k)
    elif sae.architecture == "matryoshka_batch_topk":
        shares = [size / sae.d_sae for size in sae.group_sizes]  # type: ignore[union-attr]
        trainer = trainers.matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(
            **COMMON, **sizes, **k, group_fractions=shares
        )
    elif sae.architecture == "standard":
        trainer = trainers.standard.StandardTrainer(**COMMON, **sizes, **l1)
    elif sae.architecture == "standard_april":
        trainer = trainers.standard.StandardTrainerAprilUpdate(**COMMON, **sizes, **l1)
    elif sae.architecture == "gated":
        trainer = trainers.gdm.GatedSAETrainer(**COMMON, **sizes, **l1)
    elif sae.architecture == "jumprelu":
        trainer = trainers.jumprelu.JumpReluTrainer(
            **COMMON, **sizes, sparsity_warmup_steps=None, target_l0=sae.target_l0, bandwidth=sae.bandwidth
        )
    elif sae.architecture == "p_anneal":
        trainer = trainers.p_anneal.PAnnealTrainer(
            **COMMON,
            **sizes,
            sparsity_function="Lp^p",
            sparsity_warmup_steps=None,
            initial_sparsity_penalty=sae.penalty,
        )
        trainer.p, trainer.next_p = sae.p, sae.powers[int(sae.n_updated)]
    else:
        raise ValueError(f"dictionary_learning has no trainer for {sae.architecture}")
    _take_weights(trainer.ae, sae)
    steps = count(FIRST_STEP)

    def step(x: torch.Tensor) -> object:
        if n_dead:
            trainer.num_tokens_since_fired[:n_dead] = LONG_DEAD
        return trainer.update(next(steps), x)

    def l0(x: torch.Tensor) -> float:
        selects = "topk" in sae.architecture
        codes = trainer.ae.encode(x, use_threshold=False) if selects else trainer.ae.encode(x)
        return float((codes > 0).sum()) / len(x)

    return step, l0


@torch.no_grad()
def _take_weights(theirs: Any, ours: Sae) -> None:
    """Copy our weights into an SAE of dictionary_learning; those that only theirs has keep their first values."""
    if hasattr(theirs, "W_enc"):
        theirs.W_enc.copy_(ours.W_enc)
        theirs.W_dec.copy_(ours.W_dec)
    else:
        theirs.encoder.weight.copy_(ours.W_enc.T)
        theirs.decoder.weight.copy_(ours.W_dec.T)
    own = dict(ours.named_parameters())
    names = {"b_enc": "b_enc", "threshold": "threshold", "encoder.bias": "b_enc", "gate_bias": "b_gate"}
    for name, parameter in theirs.named_parameters():
        if name in names:
            parameter.copy_(own[names[name]])


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

    def step(x: torch.Tensor) -> object:
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

    def step(x: torch.Tensor) -> object:
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
