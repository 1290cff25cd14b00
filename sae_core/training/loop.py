"""The one training loop, which knows no architecture: batches of activations in, a trained SAE out.

Part of the training stage. Activations are scaled to unit mean squared norm while training.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import LearningRate, TrainingConfig
from sae_core.progress import Progress, silent
from sae_core.training.run import DivergedError, Job, Observer, Run, Settings, TrainingResult
from sae_core.training.schedules import learning_rate
from sae_core.training.state import CurvePoint

Batches = Iterator[Float[Tensor, "batch d_in"]] | Callable[[int], Iterator[Float[Tensor, "batch d_in"]]]
"""Batches from the first one on, or a function that gives them from batch ``start`` on, which a resumed run needs."""


def train(
    sae: Sae,
    batches: Batches,
    config: TrainingConfig,
    on_step: Observer | None = None,
    *,
    lr: LearningRate | None = None,
    scale: float = 1.0,
    l2_coefficient: float = 0.0,
    aligned: bool = False,
    seed: int = 0,
    resume: Path | None = None,
    on_checkpoint: Callable[[int, Sae], None] | None = None,
    reference: bool = False,
    progress: Progress = silent,
) -> TrainingResult:
    """Train an SAE in place.

    Args:
        sae: as ``build`` makes it; moved to the device of the config. The result has the one to use.
        batches: ``config.n_steps`` batches of activations, as stored. Where they end earlier, the run ends too if
            ``config.on_data_end`` is ``stop``; its schedules were for ``n_steps`` then.
        on_step: told every ``log_every`` steps; watching changes nothing.
        lr: learning rate; None takes ``config.lr``.
        scale: factor on the activations, ``1 / sqrt(mean squared norm)``: losses and penalties are for unit mean
            squared norm.
        l2_coefficient: as in ``SaeConfig``.
        aligned: as in ``SaeConfig``.
        seed: of the inputs drawn for ``resample_dead``; nothing else here is random.
        resume: file that keeps the state every ``config.resume_minutes``; a run that finds one goes on from it.
        on_checkpoint: called with the SAE, which it must not change, after each share of steps in
            ``config.checkpoints``.
        reference: compute gradients by autograd even where the sparse kernels could.

    Raises:
        DivergedError: if the loss or the gradient is not finite. ``resume`` then holds the last state that was saved,
            which had a finite loss.
        ValueError: if the SAE cannot be trained here, the batches end early, are not finite or have another width.
    """
    lr = learning_rate(config.lr if lr is None else lr, sae.d_sae)
    settings = Settings(config, lr, scale, l2_coefficient, aligned, reference)
    run = Run(Job(sae, seed, on_step, resume, on_checkpoint), settings)
    diverged = advance_all([run], batches, config, progress)
    if diverged:
        raise diverged[0]
    return run.finish()


def advance_all(
    runs: Sequence[Run], batches: Batches, config: TrainingConfig, progress: Progress = silent
) -> dict[int, DivergedError]:
    """Advance runs to their end; each batch is read once, and given to all runs that have not had it yet.

    Returns:
        Of the runs that diverged, by their place, the error; the others went on.
    """
    diverged: dict[int, DivergedError] = {}
    start = min(run.state.step for run in runs)
    with _opened(batches, start) as stream:
        for step in range(start, config.n_steps):
            x = next(stream, None)
            if x is None and step > 0 and config.on_data_end == "stop":
                break
            if x is None:
                raise ValueError(
                    f"the batches ended after {step} steps, expected {config.n_steps}; lower n_steps, repeat the data, "
                    "or set on_data_end to stop"
                )
            point = None
            for place, run in enumerate(runs):
                if run.state.step == step and place not in diverged:
                    try:
                        point = run.advance(x) or point
                    except DivergedError as error:
                        diverged[place] = error
            if point:
                rates = [run.tokens_per_second() for run in runs]
                progress(point.step, config.n_steps, _describe(point, sum(rates)))
            if len(diverged) == len(runs):
                break
    return diverged


@contextmanager
def _opened(batches: Batches, start: int) -> Iterator[Iterator[Tensor]]:
    """The batches from ``start`` on; closed at the end where they were opened here."""
    if callable(batches):
        stream = batches(start)
        try:
            yield stream
        finally:
            if isinstance(stream, Generator):
                stream.close()
    elif start > 0:
        raise ValueError(
            f"cannot go on from step {start} with an iterator; give train() a function that starts at any batch, "
            "for example lambda start: shards.batches(batch_size, seed, start)"
        )
    else:
        yield batches


def _describe(point: CurvePoint, tokens_per_second: float) -> str:
    return (
        f"step {point.step:,}: FVE {point.fve:.3f}, L0 {point.l0:.1f}, dead {point.dead_fraction:.1%}, "
        f"{tokens_per_second:,.0f} tokens/s"
    )
