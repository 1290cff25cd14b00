"""The command behind ``sae_core.synthetic.processes``: train some seeds of a point, as ``job.json`` says.

python -m sae_core.synthetic.worker FOLDER
"""

import json
import sys
from pathlib import Path

from sae_core.formats import save_sae
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.runs import train_point
from sae_core.synthetic_config import PointConfig


def main(folder: Path) -> None:
    """Train, tell the steps done on the standard output, and save the SAEs beside the job."""
    job = json.loads((folder / "job.json").read_text())
    point, seeds = PointConfig.model_validate(job["point"]), job["seeds"]

    def progress(done: int, total: int, text: str) -> None:
        print(done, flush=True)

    data = SyntheticData(point.data)
    trained = train_point(point, data, seeds, from_truth=job["from_truth"], divided=False, progress=progress)
    for seed, sae in zip(seeds, trained.saes, strict=True):
        save_sae(sae, folder / f"seed_{seed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
