"""Training curves as tables: what is stored, and a few points of it for the UI. Part of the training stage."""

from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.training.run import TrainingResult

CURVES, TIMING = "training.parquet", "_timing.parquet"


def write_curves(folder: Path, result: TrainingResult, batch_size: int) -> None:
    """Write ``training.parquet``: a row a point, the fields of ``CurvePoint`` and what the architecture adds to them.

    Wall times are beside it in ``_timing.parquet``: they are no part of the content.
    """
    rows = [{**watched, **asdict(point)} for point, watched in zip(result.curve, result.watched, strict=True)]
    names = list(dict.fromkeys([*asdict(result.curve[0]), *(name for row in rows for name in row)]))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), folder / CURVES)
    steps = [point.step for point in result.curve]
    pairs = zip([0, *steps], steps, [0.0, *result.seconds], result.seconds, strict=False)
    rates = [(step - before) * batch_size / max(1e-9, now - then) for before, step, then, now in pairs]
    pq.write_table(pa.table({"step": steps, "seconds": result.seconds, "tokens_per_second": rates}), folder / TIMING)


def tokens_per_second(result: TrainingResult) -> float:
    """Mean over the whole run, waiting for data and saving included."""
    return result.n_tokens / max(1e-9, result.seconds[-1])


def few_points(folder: Path, n: int = 12) -> list[dict[str, int | float | None]]:
    """About ``n`` points of the curves in an SAE artifact, equally spaced and the last among them, with tokens per
    second; none for an SAE that was trained elsewhere.
    """
    if not (folder / CURVES).is_file():
        return []
    curves, timing = pq.read_table(folder / CURVES), pq.read_table(folder / TIMING)
    rates = timing["tokens_per_second"].to_pylist()
    rows = [{**row, "tokens_per_second": rate} for row, rate in zip(curves.to_pylist(), rates, strict=True)]
    every = -(-len(rows) // n)
    return rows[::-1][::every][::-1]
