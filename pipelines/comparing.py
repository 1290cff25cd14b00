"""What ``concord compare`` does around the comparison: progress, files, text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from sae_core.compare import Compared, compare, settings_for, without_matches
from sae_core.compare_results import Comparison
from sae_core.compare_text import comparison_text
from sae_core.config import ConsistencyConfig
from sae_core.formats import Orientation
from sae_core.terminal_progress import TerminalProgress
from sae_core.whole_files import write_whole

_FIGURES = (".png", ".svg")


class UserError(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Outputs:
    """What is wanted of a comparison."""

    as_json: bool = False
    matches: bool = True
    pairs: str | None = None
    plot: str | None = None

    def check(self) -> None:
        """Refuse a file that cannot be written before minutes of work.

        Raises:
            UserError: naming it.
        """
        for path in (self.pairs, self.plot):
            if path and not Path(path).absolute().parent.is_dir():
                raise UserError(
                    f"there is no folder {Path(path).absolute().parent} to write {path} into; make it first"
                )
        if self.plot and Path(self.plot).suffix not in _FIGURES:
            raise UserError(f"--plot writes {' or '.join(_FIGURES)} files: got {self.plot}")


def run_comparison(
    saes: Sequence[str],
    outputs: Outputs,
    *,
    format: str | None,
    key: str | None,
    rows: Orientation,
    full: bool,
    time_budget_s: float | None,
) -> str:
    """Compare, write the files that are wanted, and return what belongs on the standard output.

    Raises:
        UserError: for SAEs that cannot be read or compared, and files that cannot be written.
    """
    outputs.check()

    def settings(n_features: int) -> ConsistencyConfig:
        return settings_for(n_features, full).model_copy(update={"time_budget_s": time_budget_s})

    try:
        found = compare(
            saes, format=format, key=key, rows=rows, config=settings, progress=TerminalProgress("comparing")
        )
        _write(found, outputs)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise UserError(str(error.args[0] if isinstance(error, KeyError) else error)) from error
    if not outputs.as_json:
        return comparison_text(found.comparison)
    shown = found.comparison if outputs.matches else without_matches(found.comparison)
    return shown.model_dump_json(indent=1)


def json_schema() -> str:
    """The JSON schema of ``--json``."""
    return json.dumps(Comparison.model_json_schema(), indent=1)


def _write(found: Compared, outputs: Outputs) -> None:
    if outputs.pairs:
        write_whole(Path(outputs.pairs), lambda part: pq.write_table(found.report.matches, part))
    if outputs.plot:
        from sae_core.report.pictures import write_compare_figure

        write_compare_figure(Path(outputs.plot), found.report)
