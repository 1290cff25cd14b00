"""What an earlier materialization of the same partition found, from Dagster's history."""

from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.history import materializations
from assets.recording import recorded_artifacts
from sae_core.store import Artifact


@dataclass(frozen=True)
class Agreement:
    """PW-MCC of one materialization, with its 95 % confidence interval where there is one."""

    pw_mcc: float
    ci_low: float | None
    ci_high: float | None
    run_id: str = ""
    """The run that made it."""

    @property
    def half_width(self) -> float | None:
        """Of the interval."""
        if self.ci_low is None or self.ci_high is None:
            return None
        return (self.ci_high - self.ci_low) / 2


def earlier_agreement(
    context: dg.AssetExecutionContext, key: dg.AssetKey, partition: str, made: Artifact
) -> Agreement | None:
    """The latest materialization of a partition of *consistency* with another content than what was made now.

    It is read from the metadata, so the artifact may have been removed since; None where there is none.
    """
    of_partition = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition])
    for earlier, record in materializations(context.instance, of_partition):
        recorded, pw_mcc = recorded_artifacts(earlier).get("consistency"), _number(earlier, "pw_mcc")
        if recorded is None or pw_mcc is None:
            continue  # reported by hand, or it does not say
        _url, content = recorded
        if content != made.content:
            return Agreement(
                pw_mcc=pw_mcc,
                ci_low=_number(earlier, "ci_low"),
                ci_high=_number(earlier, "ci_high"),
                run_id=record.run_id,
            )
    return None


def _number(materialization: dg.AssetMaterialization, name: str) -> float | None:
    found: Any = materialization.metadata.get(name)
    return None if found is None or found.value is None else float(found.value)
