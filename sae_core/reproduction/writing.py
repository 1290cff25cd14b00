"""The files of an experiment and of the whole reproduction.

Part of *reproduction*: results of points -> **rows**, tables, figures, page.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_core.report.figure_files import Panel, png, small_png
from sae_core.reproduction.claims import LanguageModelResult
from sae_core.reproduction.estimates import Points
from sae_core.reproduction.figures import experiment_figure
from sae_core.reproduction.page import LANGUAGE_MODEL_STUDY, PROXY_FIGURE, figure_name, render_page
from sae_core.reproduction.proxy_map import proxy_map, proxy_panels
from sae_core.reproduction.rows import VERDICTS, all_rows
from sae_core.reproduction.tables import experiment_table
from sae_core.synthetic.results import PointSummary
from sae_core.synthetic_config import GroupConfig, SyntheticStudyConfig
from sae_core.whole_files import write_whole

_DPI = 150
_SMALL_DPI = 90
"""Of the map for the UI: below 150 kB, and its words can be read."""
_MAP_INCHES = (4.6, 4.2)


def write_experiment(folder: Path, group: GroupConfig, points: Points) -> dict[str, Any]:
    """Write the points of one group of an experiment into a folder.

    ``points.json`` (all numbers), ``table.md``, ``figure.png``, and ``figure_small.png`` (below 150 kB, for the UI).

    Returns:
        A few numbers of the group, for the UI.

    Raises:
        ValueError: if there are no points.
    """
    panels = experiment_figure(group, points)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "points.json", _json([point.model_dump(mode="json") for point in points]))
    _write(folder / "table.md", (experiment_table(points) + "\n").encode())
    _write(folder / "figure.png", png(panels, dpi=_DPI))
    _write(folder / "figure_small.png", small_png(panels))
    closest = max(points, key=lambda point: point.recovery.gt_mcc)
    return {
        "n_points": len(points),
        "closest_point": closest.config.key,
        "closest_gt_mcc": closest.recovery.gt_mcc,
        "closest_pw_mcc": closest.consistency.pw_mcc,
        "largest_gap": max(abs(point.consistency.pw_mcc - point.recovery.gt_mcc) for point in points),
        "n_chance_like": sum(bool(point.chance_like) for point in points),
        "n_consistent_but_wrong": sum(point.consistent_but_wrong for point in points),
    }


def read_points(folder: Path) -> list[PointSummary]:
    """The points that ``write_experiment`` wrote.

    Raises:
        FileNotFoundError: if there are none.
    """
    path = folder / "points.json"
    if not path.is_file():
        raise FileNotFoundError(f"no points.json in {folder}; materialize the experiment first")
    return [PointSummary.model_validate(found) for found in json.loads(path.read_text(encoding="utf-8"))]


def write_reproduction(
    folder: Path,
    study: SyntheticStudyConfig,
    results: Mapping[str, Mapping[str, Points]],
    language_model: Mapping[str, LanguageModelResult] | None,
) -> dict[str, Any]:
    """Write the paper's numbers beside ours into a folder.

    ``reproduction.md`` (the page), ``rows.json`` (its first tables), and the figures that the page shows:
    ``reproduction_<experiment>.png`` and ``reproduction_proxy.png``. All lie beside each other. For the UI the last one
    below 150 kB too: ``proxy_map_small.png``.

    Args:
        results: points by experiment and group; what is missing is told as not yet run.
        language_model: by variant key; None where the study on a language model was not run.

    Returns:
        How many rows have which verdict, and how many points are at chance or consistent but wrong.
    """
    rows = all_rows(results, language_model, study.language_model_study or LANGUAGE_MODEL_STUDY)
    proxy = proxy_map(results)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "rows.json", _json([row.as_json() for row in rows]))
    _write(folder / "reproduction.md", render_page(study, results, rows, proxy).encode())
    for experiment in study.experiments:
        panels: list[Panel] = []
        for group in experiment.groups:
            points = results.get(experiment.name, {}).get(group.name, ())
            panels += experiment_figure(group, points) if points else []
        if panels:
            _write(folder / figure_name(experiment.name), png(panels, dpi=_DPI))
    panels = proxy_panels(proxy)
    for name, dpi in ((PROXY_FIGURE, _DPI), ("proxy_map_small.png", _SMALL_DPI)):
        _write(folder / name, png(panels, dpi=dpi, letters=False, inches=_MAP_INCHES))
    verdicts = Counter(row.verdict for row in rows)
    return {
        "n_rows": len(rows),
        **{f"n_{verdict.replace(' ', '_')}": verdicts[verdict] for verdict in VERDICTS},
        "n_points": len(proxy.points),
        "n_chance_like": proxy.n_chance_like,
        "n_consistent_but_wrong": len(proxy.wrong),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))
