"""Training curves in TensorBoard or Weights & Biases while a run goes on. Part of the training stage.

Optional: both packages are imported where they are used, and watching changes no bit of what is trained. A run that was
killed and goes on shows twice what it did twice.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sae_core.training.run import Observer


def require_watchers(kinds: Sequence[str]) -> None:
    """Refuse watchers whose package is missing.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    for kind in kinds:
        if find_spec(kind) is None:
            raise ModuleNotFoundError(
                f"training.watch names {kind}, but the package {kind} is not installed; install it with: "
                f"pip install sae-concord[{kind}]"
            )


def watching(
    kinds: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any]
) -> AbstractContextManager[Observer | None]:
    """An observer that tells all watchers of a run; None where there are none.

    Args:
        kinds: as in ``TrainingConfig.watch``.
        folder: TensorBoard writes to ``<folder>/tensorboard/<name>``, wandb below ``<folder>/wandb``.
        name: of the run; may have slashes.
        settings: JSON values that wandb shows beside the curves.

    Raises:
        ModuleNotFoundError: if a package is missing.
    """
    require_watchers(kinds)
    return _watching(kinds, folder, name, settings)


@contextmanager
def _watching(kinds: Sequence[str], folder: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Observer | None]:
    with ExitStack() as stack:
        observers = []
        if "tensorboard" in kinds:
            observers.append(stack.enter_context(tensorboard(folder / "tensorboard" / name)))
        if "wandb" in kinds:
            observers.append(stack.enter_context(wandb(folder, name, settings)))

        def tell(step: int, numbers: dict[str, float]) -> None:
            for observer in observers:
                observer(step, numbers)

        yield tell if observers else None


@contextmanager
def tensorboard(folder: Path) -> Iterator[Observer]:
    """Curves as TensorBoard's event files in a folder; look at them with ``tensorboard --logdir <folder>``."""
    writer = import_module("torch.utils.tensorboard").SummaryWriter(str(folder), flush_secs=10)

    def tell(step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(f"training/{name}", value, step)

    try:
        yield tell
    finally:
        writer.close()


@contextmanager
def wandb(folder: Path, name: str, settings: Mapping[str, Any]) -> Iterator[Observer]:
    """Curves as a run of Weights & Biases, whose own environment variables say where to.

    ``WANDB_MODE=offline`` keeps it in ``<folder>/wandb``, to be sent by ``wandb sync``; ``WANDB_PROJECT`` names the
    project, sae-concord otherwise.
    """
    client = import_module("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    run = client.init(
        project=os.environ.get("WANDB_PROJECT", "sae-concord"),
        name=name,
        dir=str(folder),
        config=dict(settings),
        reinit="create_new",  # runs that are trained together are watched together
        settings=client.Settings(console="off"),
    )

    def tell(step: int, numbers: dict[str, float]) -> None:
        run.log({f"training/{name}": value for name, value in numbers.items()}, step=step)

    failed = 1
    try:
        yield tell
        failed = 0
    finally:
        run.finish(exit_code=failed)
