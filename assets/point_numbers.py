"""The few numbers of a synthetic experiment's points that checks and the UI need."""

import json
from dataclasses import dataclass

from sae_core.store import Artifact


@dataclass(frozen=True)
class PointNumbers:
    """What came out at one point."""

    key: str
    gt_mcc: float
    pw_mcc: float
    certified: bool
    """Whether every matching of seeds is proven optimal."""
    chance_like: list[str]
    """Those of ``gt_mcc`` and ``pw_mcc`` that are not above chance."""


def point_numbers(experiment: Artifact) -> list[PointNumbers]:
    """The points of an *experiment* artifact, in their order."""
    points = json.loads((experiment.path / "points.json").read_text(encoding="utf-8"))
    return [
        PointNumbers(
            key=key,
            gt_mcc=point["recovery"]["gt_mcc"],
            pw_mcc=point["consistency"]["pw_mcc"],
            certified=point["consistency"]["certified"],
            chance_like=point["chance_like"],
        )
        for key, point in zip(experiment.manifest.inputs["points"], points, strict=True)
    ]
