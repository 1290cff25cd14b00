"""Seeds that cannot be trained as a stack, divided among processes. Part of the *synthetic* stage.

A step of a small SAE is all overhead, which one Python process cannot divide. The processes are started as commands
(:mod:`sae_core.synthetic.worker`), so that it does not matter what the calling program is.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from sae_core.architectures import Sae
from sae_core.formats import load_sae
from sae_core.progress import Progress, silent
from sae_core.synthetic_config import PointConfig

WORTH_IT = 10_000
"""Steps of all seeds together from which further processes, which take seconds to start, are worth it."""
_LOOK_EVERY_S = 0.5


def divide(seeds: Sequence[int], n_steps: int) -> list[list[int]]:
    """Groups of seeds, one for each process: as many as torch may use threads, or one where that is not worth it."""
    n = min(len(seeds), torch.get_num_threads()) if len(seeds) * n_steps >= WORTH_IT else 1
    return [list(seeds[place::n]) for place in range(n)]


def train_in_processes(
    point: PointConfig, groups: Sequence[Sequence[int]], from_truth: bool, progress: Progress = silent
) -> dict[int, Sae]:
    """The SAE of every seed, each the same to the last bit as trained here.

    Raises:
        ValueError: if a process fails; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / str(number) for number in range(len(groups))]
        for part, seeds in zip(parts, groups, strict=True):
            part.mkdir()
            job = {"point": point.model_dump(mode="json"), "seeds": list(seeds), "from_truth": from_truth}
            (part / "job.json").write_text(json.dumps(job))
        running = [_start(part) for part in parts]
        try:
            while any(process.poll() is None for process in running):
                time.sleep(_LOOK_EVERY_S)
                done = min(map(_steps_done, parts))
                n_steps = point.recipe.n_steps
                progress(done, n_steps, f"step {done:,} of {n_steps:,} in {len(parts)} processes")
        finally:
            for process in running:
                process.kill()
                process.wait()
        for part, process in zip(parts, running, strict=True):
            if process.returncode:
                lines = (part / "errors").read_text().strip().splitlines() or [f"exit code {process.returncode}"]
                raise ValueError(lines[-1].removeprefix("ValueError: "))
        places = [(seed, part) for part, seeds in zip(parts, groups, strict=True) for seed in seeds]
        return {seed: load_sae(part / f"seed_{seed}") for seed, part in places}


def _start(part: Path) -> subprocess.Popen[bytes]:
    with open(part / "steps", "wb") as steps, open(part / "errors", "wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "sae_core.synthetic.worker", str(part)],
            stdout=steps,
            stderr=errors,
            cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _steps_done(part: Path) -> int:
    lines = (part / "steps").read_text().split()
    return int(lines[-1]) if lines else 0
