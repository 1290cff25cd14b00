"""What a user does in the UI, in a real browser, on a tiny study.

With ``WALKTHROUGH_DOCS=docs`` the same steps write ``docs/walkthrough.md`` and its pictures: the first line of a step's
docstring is its title there, the rest its text.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import queries
from tests.live.browser import Browser, Walkthrough, browser
from tests.live.servers import LiveDagster
from tests.live.world import STUDY, TinyProject

pytestmark = pytest.mark.timeout(1800)

ACTIVATIONS = "activations/tiny-llama/model_layers_1"
VARIANTS = [{"architecture": "topk", "d_sae": 64, "k": 2}, {"architecture": "topk", "d_sae": 64, "k": 8}]
CONSISTENT = "topk-d64-k2"
HEAD = """# A walk through the UI

Made by a test (`tests/live/test_walkthrough.py`, with `WALKTHROUGH_DOCS=docs`), which does each of these steps in
Chromium on a study that trains in seconds: a random language model of 3 layers, 60 words, two variants, two seeds.
Its numbers mean nothing. The same pages come up with `make ui` for the studies of this repository.
"""


@dataclass
class Walk:
    """What the steps share."""

    project: TinyProject
    live: LiveDagster
    tab: Browser
    book: Walkthrough


def test_the_walk_through_the_ui(project):
    project.add_study("tiny", variants=VARIANTS, seeds=[0, 1], training=STUDY["training"] | {"n_steps": 1500})
    with project.live() as live, browser(live.url) as tab:
        walk = Walk(project, live, tab, Walkthrough(tab))
        for step in STEPS:
            walk.book.chapter(step.__doc__)
            try:
                step(walk)
            except BaseException:
                tab.page.screenshot(path=project.root / "failed.png")
                raise
        assert tab.foreign == [], "no page asks for anything off this machine"
    if docs := os.environ.get("WALKTHROUGH_DOCS"):
        walk.book.write(Path(docs), HEAD)


def _ran(walk, *before):
    """Wait until runs that came after ``before`` have ended well."""
    known = {run["runId"] for run in before}
    walk.live.wait_until(lambda: [r for r in walk.live.runs() if r["runId"] not in known], "a run was launched", 60)
    walk.live.wait_until_idle(600)
    new = [run for run in walk.live.runs() if run["runId"] not in known]
    failed = {run["runId"]: walk.live.logs(run["runId"])[-5:] for run in new if run["status"] != "SUCCESS"}
    assert not failed, failed
    return new


def _has_asset(walk, key):
    found = walk.live.graphql(queries.STALE, {"key": {"path": key.split("/")}, "partition": None})
    return "staleStatus" in found["assetNodeOrError"]


def first_page(walk):
    """The first page

    No dialog stands before it, and no page asks for anything off this machine: no telemetry, no fonts, no news.
    """
    walk.tab.open("/", "Overview", "Runs", "Catalog", "Lineage")
    walk.tab.page.wait_for_timeout(3000)  # a dialog would need time to come up
    assert walk.tab.page.locator("[role=dialog], [class*=dialog-container]").filter(visible=True).count() == 0
    walk.book.picture("first_page", "The first page, without a dialog")


def lineage(walk):
    """The flow

    *Lineage* in the menu. A group for each model (its weights, its text, its activations) and one for each study; a
    double arrow unfolds a group. The page of a group shows its stages: SAEs of every variant and seed, the comparison
    of the seeds, the contexts in which features fire, explanations, their scores and their similarity, and the
    report.
    """
    walk.tab.open("/asset-groups", "model_tiny_llama", "study_tiny")
    walk.book.picture("groups", "A group for the model and one for the study")
    walk.tab.open(
        "/locations/sae_concord/asset-groups/study_tiny/lineage", "explanation_scores", "model_versions", "report"
    )
    walk.book.picture("study", "The stages of a study")


def activations(walk):
    """Read the text once

    On the page of an asset, *Materialize*. Activations have no partitions, so the run starts at once; then the page
    shows what came out, and from which data.
    """
    before = walk.live.runs()
    walk.tab.open(f"/assets/{ACTIVATIONS}", "Materialize")
    walk.tab.press("Materialize")
    _ran(walk, *before)
    walk.tab.open(f"/assets/{ACTIVATIONS}", "n_tokens")
    walk.book.picture("activations", "Activations, with their numbers")


def choose_partitions(walk):
    """Train some SAEs

    *Materialize* on `tiny/sae` asks which seeds and which variants. Here: both seeds of one of the two variants.
    Each is a run of its own; how many of them run at a time is set in `dagster.yaml`. The partitions page then shows
    who is trained, who failed and who is missing.
    """
    page, before = walk.tab.page, walk.live.runs()
    walk.tab.open("/assets/tiny/sae", "Materialize")
    walk.tab.press("Materialize")
    walk.tab.see("Partition selection")
    for wanted in ("Select all (2)", "topk-d64-k2"):
        page.get_by_text("Select a partition or create one").first.click()
        page.locator("[class*=popover]").get_by_text(wanted, exact=True).filter(visible=True).last.click(force=True)
        page.get_by_text("Launch runs to materialize").click()
    walk.tab.see("2 partitions")
    walk.book.picture("choose_partitions", "All seeds of one variant are chosen")
    walk.tab.press("Launch")
    runs = _ran(walk, *before)
    assert sorted(run["partition"] for run in runs) == [f"{seed}|topk-d64-k2" for seed in range(2)]
    walk.tab.open("/runs", "tiny / sae")
    walk.book.picture("runs", "The runs")
    walk.tab.open("/assets/tiny/sae?view=partitions", "topk-d64-k8")
    walk.book.picture("partitions", "Two of four SAEs are trained")


def the_rest(walk):
    """Make the rest with a job

    *Jobs* has one for each thing that people do: `extract`, `train`, `measure`, `explain`, `everything`, `status`.
    Their launchpad is a form with defaults and the names there are. `everything` makes what is missing of a study;
    what is in the store counts as done, so the two SAEs are not trained again. Its log says how far it is, and each
    of its steps is a run of its own.
    """
    before = walk.live.runs()
    walk.tab.open("/locations/sae_concord/jobs/everything/playground", "Launch Run")
    walk.book.picture("launchpad", "The form of the job")
    walk.tab.press("Launch Run")
    _ran(walk, *before)
    job = next(run for run in walk.live.runs() if run["jobName"] == "everything")
    walk.tab.open(f"/runs/{job['runId']}", "everything_chain", "RUN_SUCCESS")
    walk.book.picture("log", "The log of the run")


def consistency(walk):
    """Do the seeds agree?

    `tiny/consistency` has a partition a variant. Its metadata begins with the numbers: `pw_mcc`, the levels that
    chance reaches (`null_...`), and the same corrected for chance (`kappa_...`). Below them are the settings, the
    code, the machine, and tables of what it was made from.
    """
    walk.tab.open(f"/assets/tiny/consistency?view=partitions&partition={CONSISTENT}", "pw_mcc")
    walk.book.picture("consistency", "PW-MCC of one variant")
    walk.tab.page.get_by_text("lineage", exact=True).last.scroll_into_view_if_needed()
    walk.book.picture("provenance", "What it was made from")
    walk.tab.open("/assets/tiny/consistency?view=checks", "certified")
    walk.book.picture("checks", "The checks")
    walk.tab.open("/assets/tiny/consistency?view=lineage", "consistency")
    walk.book.picture("asset_lineage", "What lies before and after it")


def report(walk):
    """The report

    `tiny/report` shows the table of the variants in place, and its figure behind a click. The page itself lies at
    `path`.
    """
    walk.tab.open("/assets/tiny/report", "figure: report")
    walk.book.picture("report", "The table of the report")
    row = walk.tab.page.get_by_role("row").filter(has_text="figure: report").last
    row.get_by_text("[Show Markdown]").click()
    walk.tab.page.locator("img[src^='data:image/png']").first.wait_for()
    walk.book.picture("figure", "Its figure")


def new_weights(walk):
    """The model changes

    New weights lie in the model's folder. *Observe* on `model/tiny-llama` notices it (a schedule does so where a
    study is not `manual`). The check `up_to_date` of the report then lists which partitions no longer fit, and why.
    """
    walk.project.new_weights(seed=5)
    before = walk.live.runs()
    walk.tab.open("/assets/model/tiny-llama", "Observe")
    walk.tab.press("Observe")
    _ran(walk, *before)
    before = walk.live.runs()
    walk.tab.open("/assets/tiny/report?view=checks", "up_to_date")
    walk.tab.press("Execute")
    _ran(walk, *before)
    walk.tab.open("/assets/tiny/report?view=checks&checkDetail=up_to_date", "partitions are out of date")
    walk.tab.text("[Show Markdown]").first.click()
    walk.book.picture("stale", "What is out of date")


def again(walk):
    """Once more, on the new weights

    The job `everything` again: now all of it is made anew, and the old results stay in the store. *Plots* shows each
    number over the materializations, here of both variants, or over the partitions.
    """
    before = walk.live.runs()
    walk.tab.open("/locations/sae_concord/jobs/everything/playground", "Launch Run")
    walk.tab.press("Launch Run")
    _ran(walk, *before)
    found = [event["metadata"]["pw_mcc"] for event in walk.live.materializations("tiny/consistency", CONSISTENT)]
    assert len(set(found)) == 2, found
    walk.tab.open("/assets/tiny/consistency", "Plots")
    walk.tab.press("Plots")
    walk.tab.press("Events")
    plot = walk.tab.page.get_by_text("pw_mcc", exact=True).nth(1)  # the first one is in the description
    plot.wait_for()
    plot.evaluate("heading => heading.scrollIntoView({block: 'center'})")
    walk.book.picture("two_versions", "PW-MCC over materializations")


def broken_study(walk):
    """A study file with a mistake

    *Reload definitions* reads the YAML files anew. One that is broken takes nothing else down: in its place there is
    an asset that says what is wrong and where.
    """
    walk.project.break_study("half_written")
    walk.tab.open("/deployment/locations", "sae_concord")
    walk.tab.press("Reload")
    walk.live.wait_until(lambda: _has_asset(walk, "broken/half_written"), "the broken file is shown", 60)
    walk.tab.open("/assets/broken/half_written", "half_written")
    walk.book.picture("broken", "What is wrong with the file")
    assert _has_asset(walk, "tiny/report")


STEPS = [
    first_page,
    lineage,
    activations,
    choose_partitions,
    the_rest,
    consistency,
    report,
    new_weights,
    again,
    broken_study,
]
