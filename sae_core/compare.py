"""Compare SAEs that lie somewhere, in any known format: no pipeline, no activations, one function.

Beside the chain: what ``concord compare`` calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pyarrow as pa

from sae_core.compare_results import ComparedPair, ComparedSae, Comparison, MatchedFeatures
from sae_core.config import ConsistencyConfig
from sae_core.consistency import ConsistencyReport, Run, consistency
from sae_core.formats import Dictionary, Orientation, load_dictionary
from sae_core.progress import Progress, silent

DETAILED_FEATURES = 20_000
"""Up to so many features every number is measured by default. Each costs about one more exact matching of every pair:
seconds up to here, a minute at 65,536 features."""
_VERSIONED = ("sae-concord", "torch", "numpy", "scipy", "numba")


@dataclass(frozen=True)
class Compared:
    """A comparison as numbers (for JSON) and as tables (for Parquet and figures)."""

    comparison: Comparison
    report: ConsistencyReport


def compare(
    locations: Sequence[str | Path],
    *,
    format: str | None = None,
    key: str | None = None,
    rows: Orientation = "features",
    config: Callable[[int], ConsistencyConfig] | None = None,
    progress: Progress = silent,
) -> Compared:
    """Match the decoders of SAEs pair by pair: PW-MCC with its chance levels, and the whole matching.

    Args:
        locations: at least two: folders, files, or ``hf://owner/name@revision/folder``.
        format: one of ``sae_core.formats.FORMATS``; None looks at the files.
        key: which array of a file of bare arrays is the decoder.
        rows: what the rows of a bare array are.
        config: what is measured, given the number of features of the largest SAE; None takes :func:`settings_for`.
        progress: called while reading, and before every matching.

    Raises:
        ValueError: for fewer than two SAEs, the same one twice, different ``d_in``, a row that is not finite; and as
            :func:`sae_core.formats.load_dictionary`.
    """
    given = [str(location) for location in locations]
    if len(given) < 2:
        raise ValueError(f"a comparison needs at least two SAEs, got {len(given)}: name another one")
    twice = sorted({location for location in given if given.count(location) > 1})
    if twice:
        raise ValueError(f"an SAE agrees with itself: {', '.join(twice)} given more than once; name different ones")
    dictionaries = []
    for number, location in enumerate(given):
        progress(number, len(given), f"reading {location}")
        dictionaries.append(load_dictionary(location, format=format, key=key, rows=rows))
    names = short_names(given)
    _check_widths(names, dictionaries)
    report = consistency(
        [Run(name=name, W_dec=found.W_dec, W_enc=found.W_enc) for name, found in zip(names, dictionaries, strict=True)],
        (config or settings_for)(max(len(found.W_dec) for found in dictionaries)),
        progress,
    )
    comparison = Comparison(
        saes=[_described(name, found) for name, found in zip(names, dictionaries, strict=True)],
        pairs=_pairs(report),
        consistency=report.summary,
        versions={name: metadata.version(name) for name in _VERSIONED},
    )
    return Compared(comparison, report)


def settings_for(n_features: int, full: bool = False) -> ConsistencyConfig:
    """What is measured by default: everything up to ``DETAILED_FEATURES`` features or when ``full``, with as many draws
    of each null as give about 2,048 matched pairs, at most four.

    Beyond that only the exact matching itself and the chance level of random directions, which is a closed form;
    what is left out is None in the result, with its reason.
    """
    if full or n_features <= DETAILED_FEATURES:
        return ConsistencyConfig(n_null_draws=max(1, min(4, 2048 // n_features)))
    return ConsistencyConfig(n_null_draws=0, signed=False, joint=False, merged=False, core=False, consensus=False)


def short_names(locations: Sequence[str]) -> list[str]:
    """The shortest endings of paths, by whole parts, that tell them apart: ``runs/seed0`` and ``runs/seed1`` become
    ``seed0`` and ``seed1``, but ``a/sae`` and ``b/sae`` stay whole.
    """
    parts = [[part for part in location.replace("\\", "/").split("/") if part] for location in locations]
    for length in range(1, max(len(path) for path in parts) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return list(locations)


def without_matches(comparison: Comparison) -> Comparison:
    """The same without the matched features, which are most of the JSON."""
    pairs = [pair.model_copy(update={"matches": None}) for pair in comparison.pairs]
    return comparison.model_copy(update={"pairs": pairs})


def _check_widths(names: Sequence[str], dictionaries: Sequence[Dictionary]) -> None:
    widths = {name: found.W_dec.shape[1] for name, found in zip(names, dictionaries, strict=True)}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name} has {width}" for name, width in widths.items())
        raise ValueError(
            f"the SAEs must have the same d_in: {listed}; compare SAEs of the same model and hook point, and if one is "
            "an array whose rows are not its features, say so (--rows inputs)"
        )


def _described(name: str, found: Dictionary) -> ComparedSae:
    return ComparedSae(
        name=name,
        location=found.source.location,
        format=found.source.format,
        revision=found.source.revision,
        files=found.source.files,
        architecture=found.architecture,
        d_sae=found.W_dec.shape[0],
        d_in=found.W_dec.shape[1],
        has_encoder=found.W_enc is not None,
    )


def _pairs(report: ConsistencyReport) -> list[ComparedPair]:
    found = []
    for row in report.pairs.to_pylist():
        a, b = row["run_a"], row["run_b"]
        fields = {name: row[name] for name in ComparedPair.model_fields if name in row}
        matches = _matched(report.matches_of(a, b))
        found.append(ComparedPair(a=a, b=b, matches=matches, **fields))
    return found


def _matched(rows: pa.Table) -> MatchedFeatures:
    columns = {name: rows[name].to_pylist() for name in ("feature_a", "feature_b", "cosine")}
    return MatchedFeatures(**columns)
