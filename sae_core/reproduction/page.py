"""The page of the reproduction, as Markdown: the paper's numbers beside ours, each experiment, the proxy.

Part of *reproduction*. Everything on it comes from the study file and its results; the same results give the same page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from sae_core.report.numbers import MISSING, number, percent
from sae_core.reproduction.cells import ceilings, kappas, nulls, values_with_intervals
from sae_core.reproduction.differences import differences
from sae_core.reproduction.estimates import Points
from sae_core.reproduction.proxy_map import APART, Placed, ProxyMap
from sae_core.reproduction.published import PYTHIA
from sae_core.reproduction.rows import TOLERANCE, VERDICTS, Row
from sae_core.reproduction.schema import first_line
from sae_core.reproduction.sentences import sentences
from sae_core.reproduction.tables import experiment_table, markdown
from sae_core.synthetic.results import CHANCE_KAPPA
from sae_core.synthetic_config import ExperimentConfig, SyntheticStudyConfig

PROXY_FIGURE = "reproduction_proxy.png"
LANGUAGE_MODEL_STUDY = "pythia-160m"
"""The study of the paper's language model, where a synthetic study names none."""
_NAMED = 6
"""Points that a sentence names."""
_OPEN_ROWS = 8
"""A longer table is folded."""


def figure_name(experiment: str) -> str:
    """The file with the figure of an experiment."""
    return f"reproduction_{experiment}.png"


def render_page(
    study: SyntheticStudyConfig, results: Mapping[str, Mapping[str, Points]], rows: Sequence[Row], proxy: ProxyMap
) -> str:
    """The whole page."""
    synthetic = [row for row in rows if row.regime != "Pythia-160M"]
    language_model = [row for row in rows if row.regime == "Pythia-160M"]
    parts = [
        first_line(),
        "# Reproduction\n",
        _lead(synthetic, language_model),
        "## How to read it\n",
        _HOW_TO_READ,
        "## What differs from the paper\n",
        *(f"* {text}" for text in differences(study, results)),
        "\n## The paper's numbers beside ours\n",
        _rows_table(synthetic),
        "\nWhat holding *in kind* means, row by row:\n",
        *_kinds([*synthetic, *language_model]),
        "\n## On a language model\n",
        _language_model(study, language_model),
        "\n## The experiments",
    ]
    for experiment in study.experiments:
        if results.get(experiment.name):
            parts.append(_experiment(experiment, results[experiment.name]))
    if proxy.points:
        parts += ["\n## Where PW-MCC stops being a proxy\n", _proxy(proxy)]
    return "\n".join(parts).rstrip() + "\n"


_HOW_TO_READ = f"""\
* **GT-MCC**: mean absolute cosine of an SAE's decoder rows and the true features under the best one-to-one matching,
  mean over seeds; its interval is Student's t over seeds. **PW-MCC**: the same between two seeds, mean over pairs; its
  interval is a jackknife over seeds.
* **null**: what chance gives for this very shape, by random directions / by sign flips along the principal axes of one
  side. **kappa** = (value - null) / (1 - null), with the higher of the two. A value with a kappa below
  {CHANCE_KAPPA:g} is **chance-like**: not above chance.
* **from the truth** (ceiling): GT-MCC after the same training, started at the true dictionary. Where that reconstructs
  worse than a random start, the truth is not what this training looks for. **uniqueness**:
  different true features among the nearest of each feature, over their number. **FVU**: share of the variance not
  explained. **r over seeds**: correlation of a run's mean MCC with the others and its GT-MCC, p by permutation.
* **consistent but wrong**: runs agree more with each other than with the truth, by more than both intervals allow.
* The **verdict** follows a rule that was fixed before the results were looked at. *reproduced*: not chance-like, and
  no further from the paper's value than {TOLERANCE:g} or half of our interval, whichever is more. *in kind*: not that,
  but the order of things that the row claims is there (below), and not all its values are chance-like; a claim without
  a number can get no more. *not reproduced*: otherwise. *not yet run*: there are no results.
"""


def _lead(rows: Sequence[Row], language_model: Sequence[Row]) -> str:
    told, told_too = _counts(rows), _counts(language_model)
    at_chance = sum(any(each.chance_like for each in row.ours) for row in rows) or "none"
    return (
        "The synthetic experiments of *Mechanistic Interpretability Should Prioritize Feature Consistency in SAEs* "
        "(Song et al. 2025, [arXiv 2505.20254](https://arxiv.org/abs/2505.20254)), run with this project: data whose "
        "true features are known, so that agreement of seeds (PW-MCC) can be held beside that with the truth (GT-MCC). "
        f"Of {len(rows)} claims about them: {told}. In {at_chance} of them a value of ours is not above chance. Of "
        f"{len(language_model)} numbers about a language model: {told_too}. "
        "`concord run paper --docs docs` makes this page anew.\n"
    )


def _counts(rows: Sequence[Row]) -> str:
    counts = Counter(row.verdict for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def _rows_table(rows: Sequence[Row]) -> str:
    header = [
        "claim", "the paper's setting", "our setting", "published", "ours [95 % CI]", "null", "kappa", "from the truth",
        "verdict",
    ]  # fmt: skip
    cells = [
        [
            f"**{row.regime}** {row.claim}",
            row.setting,
            row.our_setting or MISSING,
            row.published,
            values_with_intervals(row.ours),
            nulls(row.ours),
            kappas(row.ours),
            ceilings(row.ours),
            _verdict(row),
        ]
        for row in rows
    ]
    return markdown(header, cells, left=(0, 1, 2, 8))


def _verdict(row: Row) -> str:
    return f"**{row.verdict}**" + "".join(f"; {note}" for note in row.notes)


def _kinds(rows: Sequence[Row]) -> list[str]:
    """Rows with the same test together."""
    tests: dict[str, list[str]] = {}
    for row in rows:
        answer = {True: "yes", False: "no", None: "not yet run"}[row.holds_in_kind]
        tests.setdefault(row.in_kind, []).append(f"`{row.id}` {answer}")
    return [f"* {test}: {', '.join(answers)}" for test, answers in tests.items()]


def _language_model(study: SyntheticStudyConfig, rows: Sequence[Row]) -> str:
    name = study.language_model_study or LANGUAGE_MODEL_STUDY
    missing = [row for row in rows if row.verdict == "not yet run"]
    lead = f"The paper's setting: {PYTHIA}.\n"
    if missing:
        lead += (
            f"\n{len(missing)} of {len(rows)} rows are not yet run. The study `{name}` fills them, on a machine with a "
            f"GPU: `concord run {name}`, then `concord run {study.name} --docs docs`.\n"
        )
    header = ["claim", "variant", "published", "ours [95 % CI]", "null", "kappa", "verdict"]
    cells = [
        [
            f"{row.claim} ({row.setting})",
            row.our_setting or MISSING,
            row.published,
            values_with_intervals(row.ours),
            nulls(row.ours),
            kappas(row.ours),
            f"**{row.verdict}**" if row.verdict == "not yet run" else _verdict(row),
        ]
        for row in rows
    ]
    return f"{lead}\n{markdown(header, cells, left=(0, 1, 6))}"


def _experiment(experiment: ExperimentConfig, groups: Mapping[str, Points]) -> str:
    parts = [f"\n### {experiment.title} (`{experiment.name}`)\n"]
    parts.append(f"![{experiment.title}]({figure_name(experiment.name)})\n")
    for group in experiment.groups:
        points = groups.get(group.name, ())
        if points:
            name = "" if group.name == "all" else f"**{group.name}.** "
            parts.append(name + " ".join(sentences(group, points)) + "\n")
            parts.append(_folded(experiment_table(points), len(points)) + "\n")
    return "\n".join(parts)


def _folded(table: str, n_rows: int) -> str:
    if n_rows <= _OPEN_ROWS:
        return table
    return f"<details><summary>{n_rows} points</summary>\n\n{table}\n\n</details>"


def _proxy(found: ProxyMap) -> str:
    parts = [
        f"![PW-MCC against GT-MCC of all points]({PROXY_FIGURE})\n",
        f"All {len(found.points)} different points of all experiments. The rank correlation of PW-MCC and GT-MCC over "
        f"them is {number(found.correlation)}. {len(found.wrong)} are consistent but wrong, {found.n_chance_like} have "
        f"a value that is not above chance. {_within(found)}\n",
    ]
    if found.n_summarised:
        parts.append(_gains(found))
    if found.wrong:
        parts += ["\nConsistent but wrong, furthest from the truth first (numbers as in the figure):\n"]
        parts += [
            f"{place}. {each.name}: PW-MCC {number(each.point.consistency.pw_mcc)}, GT-MCC "
            f"{number(each.point.recovery.gt_mcc)}"
            for place, each in enumerate(found.wrong, 1)
        ]
    if found.inconsistent:
        parts.append(_inconsistent(found.inconsistent))
    return "\n".join(parts)


def _inconsistent(found: Sequence[Placed]) -> str:
    larger = [each for each in found if each.point.config.variant.d_sae > each.point.config.data.d_gt]
    names = "; ".join(
        f"{each.name} ({number(each.point.recovery.gt_mcc)} and {number(each.point.consistency.pw_mcc)})"
        for each in found[:_NAMED]
    )
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"\nRight but inconsistent, GT-MCC more than {APART:g} above PW-MCC and neither at chance: {len(found)} "
        f"points, of which {len(larger)} have more features than the truth. Furthest apart (GT-MCC and PW-MCC): "
        f"{names}{more}."
    )


def _within(found: ProxyMap) -> str:
    if not found.seed_correlations:
        return ""
    ordered = sorted(found.seed_correlations)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[~middle]) / 2
    return (
        "Within a point the question is another one: is the run that agrees more with the others the one closer to the "
        f"truth? The median correlation over seeds is {number(median)}; it is positive with p below 0.05 at "
        f"{found.n_correlated} of {len(ordered)} points (chance alone gives about {number(0.025 * len(ordered), 0)})."
    )


def _gains(found: ProxyMap) -> str:
    names = {
        "consensus": "consensus of all runs",
        "medoid": "medoid: the run that agrees most with the others",
        "best_run": "best run, which only the truth can name",
    }
    cells = [
        [names[name], str(gain.more), str(gain.less), f"{number(100 * gain.mean, 1, sign=True)} percentage points"]
        for name, gain in found.gains.items()
    ]
    told = markdown(
        ["against the mean run", "recovers more at", "less at", "mean gain in true features recovered"], cells
    )
    precision = (
        f"\n\nOf the features of a consensus {percent(found.consensus_precision)} recover a true one, of those of a "
        f"run {percent(found.run_precision)} (means over points)."
        if found.consensus_precision is not None
        else ""
    )
    return f"What recovers more of the truth, over {found.n_summarised} points:\n\n{told}{precision}"
