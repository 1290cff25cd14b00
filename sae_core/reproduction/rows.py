"""Each published row beside ours, with a verdict by a rule that was fixed before the results were looked at.

Part of *reproduction*. The rule (``verdict``):

* ``reproduced``: no value is chance-like, and each lies within ``max(0.03, half of our interval)`` of the paper's.
* ``in kind``: not that, but what the row says of the order of things holds, and not all values are chance-like. It is
  the best that a claim without a number can get.
* ``not reproduced``: otherwise.
* ``not yet run``: there are no results for the row.

A value is chance-like when it is not above chance: kappa below 0.05 with either null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sae_core.report.numbers import number
from sae_core.reproduction import cells
from sae_core.reproduction.claims import Claim, LanguageModelClaim, LanguageModelResult
from sae_core.reproduction.estimates import Estimate, Points
from sae_core.reproduction.labels import setting
from sae_core.reproduction.published import CLAIMS, LANGUAGE_MODEL_CLAIMS

Verdict = Literal["reproduced", "in kind", "not reproduced", "not yet run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "in kind", "not reproduced", "not yet run")
TOLERANCE = 0.03
"""Largest distance from the paper's value that counts as reproduced, where our interval is not wider."""
_ROUNDING = 1e-9
"""0.97 and 0.94 are 0.03 apart, and in floating point a little more."""


@dataclass(frozen=True)
class Row:
    """A published row and ours."""

    id: str
    regime: str
    claim: str
    setting: str
    """The paper's."""
    published: str
    numbers: tuple[float, ...]
    our_setting: str
    points: tuple[str, ...]
    """Keys of the points, or of the variant, that our numbers come from."""
    ours: tuple[Estimate, ...]
    """Empty where there are none."""
    in_kind: str
    """What holding in kind means for this row."""
    holds_in_kind: bool | None
    """None where there are no results."""
    verdict: Verdict
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The row for a file: as the page shows it, and the numbers behind that under ``values``."""
        found = asdict(self)
        chance = [{"kappa": each.kappa, "chance_like": each.chance_like} for each in self.ours]
        numbers = [{**one, **more} for one, more in zip(found.pop("ours"), chance, strict=True)]
        shown = {
            "ours": cells.values(self.ours),
            "ci": cells.intervals(self.ours),
            "null": cells.nulls(self.ours),
            "kappa": cells.kappas(self.ours),
            "ceiling": cells.ceilings(self.ours),
        }
        return found | shown | {"values": numbers}


def verdict(numbers: Sequence[float], ours: Sequence[Estimate], holds: bool, same_scale: bool = True) -> Verdict:
    """The verdict on a row, by the rule above.

    Args:
        numbers: the paper's; none for a claim in words.
        ours: as many, or none where there are no results.
        holds: whether the row holds in kind.
        same_scale: whether the numbers can be compared at all.
    """
    if not ours:
        return "not yet run"
    chance_like = [each.chance_like for each in ours]
    comparable = bool(numbers) and same_scale and len(numbers) == len(ours)
    if comparable and not any(chance_like):
        apart = [abs(mine.value - theirs) for theirs, mine in zip(numbers, ours, strict=True)]
        allowed = [max(TOLERANCE, mine.half_width) + _ROUNDING for mine in ours]
        if all(distance <= most for distance, most in zip(apart, allowed, strict=True)):
            return "reproduced"
    return "in kind" if holds and not all(chance_like) else "not reproduced"


def all_rows(
    results: Mapping[str, Mapping[str, Points]],
    language_model: Mapping[str, LanguageModelResult] | None = None,
    language_model_study: str = "pythia-160m",
) -> list[Row]:
    """A row for each published one: first those on synthetic data, then those on a language model.

    Args:
        results: points by experiment and group.
        language_model: by variant key; None where that study was not run.
        language_model_study: its name, for readers who want to run it.
    """
    found = [synthetic_row(claim, results) for claim in CLAIMS]
    return found + [
        language_model_row(claim, language_model or {}, language_model_study) for claim in LANGUAGE_MODEL_CLAIMS
    ]


def synthetic_row(claim: Claim, results: Mapping[str, Mapping[str, Points]]) -> Row:
    """A published row on synthetic data beside ours."""
    points = claim.source.points(results)
    measured = claim.measure(points) if points else None
    ours = measured or ()
    holds = claim.kind.holds(points, claim.source.groups(results), ours) if ours else None
    notes = _notes(claim.numbers, ours)
    if not points:
        notes.append(f"the study has no results of {_wanted(claim)}")
    elif not ours:
        notes.append("these points do not hold what the row asks for")
    at_chance = [point for point in points if point.chance_like]
    if at_chance and ours and not any(each.nulls for each in ours):
        notes.append(f"at chance itself: {len(at_chance)} of the {len(points)} points behind it")
    wrong = [point for point in points if point.consistent_but_wrong]
    if ours and wrong:
        which = "" if len(points) == 1 else f" in {len(wrong)} of {len(points)} points"
        notes.append(f"consistent but wrong: runs agree more with each other than with the truth{which}")
    return Row(
        claim.id, claim.regime, claim.text, claim.setting, claim.published, claim.numbers,
        setting(points) if points else "", tuple(point.config.key for point in points), tuple(ours),
        claim.kind.text, holds, verdict(claim.numbers, ours, bool(holds)), tuple(notes),
    )  # fmt: skip


def language_model_row(claim: LanguageModelClaim, results: Mapping[str, LanguageModelResult], study: str) -> Row:
    """A published row on a language model beside ours."""
    variant = claim.variant(results)
    measured = claim.measure(results[variant]) if variant is not None else None
    ours = measured or ()
    holds = claim.holds(results, ours) if ours else None
    notes = _notes(claim.numbers if claim.same_scale else (), ours)
    if variant is None:
        notes.append(f"the study `{study}` fills this row, on a machine with a GPU: `concord run {study}`")
    elif not ours:
        notes.append("the study did not measure it")
    elif not claim.same_scale:
        notes.append("another scale: ours is a cosine of sentence embeddings, so that only the order can be compared")
    if variant is not None and claim.suffix is None:
        notes.append("of all variants of the architecture the one that agrees most, as the text we had names none")
    return Row(
        claim.id, "Pythia-160M", claim.text, claim.setting, claim.published, claim.numbers, variant or "",
        (variant,) if variant else (), tuple(ours), claim.kind_text, holds,
        verdict(claim.numbers, ours, bool(holds), claim.same_scale), tuple(notes),
    )  # fmt: skip


def _wanted(claim: Claim) -> str:
    source = claim.source
    return ", ".join(part for part in (source.experiment, source.group, source.architecture) if part)


def _notes(numbers: Sequence[float], ours: Sequence[Estimate]) -> list[str]:
    """What chance has to do with the paper's numbers, and with ours."""
    found = []
    at_chance = []
    for theirs, mine in zip(numbers, ours, strict=False):
        near = [null for null in mine.nulls if abs(theirs - null) < TOLERANCE]
        if near:
            at_chance.append(f"{theirs:g} (chance: {number(near[0])})")
    if at_chance:
        found.append(f"the published value is what chance gives for this shape: {', '.join(at_chance)}")
    chance_like = [number(each.value) for each in ours if each.chance_like]
    if chance_like:
        found.append(f"chance-like, not above chance: {', '.join(chance_like)}")
    return found
