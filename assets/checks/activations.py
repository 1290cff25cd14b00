"""Checks of activations."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, Check, finite, makes, results, verified
from sae_core.store import Artifact

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@makes(
    verified=VERIFIED,
    finite=FINITE,
    shapes="The shards hold as many rows, as wide, as the summary says: read from the footers of the Parquet files.",
)
def activation_checks(key: dg.AssetKey, made: Mapping[str, Artifact]) -> list[dg.AssetCheckResult]:
    """The shards are all there, with the rows and the width that were promised.

    Args:
        made: ``activations`` and ``contexts``.
    """
    activations = made["activations"]
    again = "observe the model and materialize the activations again; if it stays, read it in float32 (`dtype`)"
    return results(key, [verified(*made.values()), finite(activations.summary, again), _shapes(activations)])


def _shapes(activations: Artifact) -> Check:
    summary = activations.summary
    width = summary["d_in"] * _BYTES[summary["dtype"]]
    wrong: list[str] = []
    n_rows = {"train": 0, "held_out": 0}
    for name in activations.manifest.files:
        split = name.split("/")[0]
        if split in n_rows and name.endswith(".parquet"):
            rows, found = _footer(activations, name)
            n_rows[split] += rows
            if found != width:
                wrong.append(f"{name}: {found} bytes an activation, expected {width}")
    for split, rows in n_rows.items():
        if rows != summary[f"n_{split}_tokens"]:
            wrong.append(f"{split}: {rows:,} rows, expected {summary[f'n_{split}_tokens']:,}")
    return Check(
        "shapes",
        not wrong,
        sum(n_rows.values()),
        f"{summary['n_train_tokens']:,} and {summary['n_held_out_tokens']:,} rows of {summary['d_in']} "
        f"{summary['dtype']} numbers",
        "delete the folder of the artifact and materialize the activations again",
        {"wrong": ", ".join(wrong)},
    )


def _footer(activations: Artifact, name: str) -> tuple[int, int | str]:
    """Rows of a shard, and the bytes of one activation; what is wrong instead of these, where it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.ParquetFile(activations.path / name)
    except (OSError, pa.ArrowInvalid) as error:
        return 0, f"unreadable ({error}):"
    field: Any = footer.schema_arrow.field("activation")
    return footer.metadata.num_rows, field.type.byte_width
