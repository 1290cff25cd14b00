"""The live trial of automation: real daemon, webserver and code server; what reruns after which change, and what not.

With ``TRIAL_DOCS=docs`` the log of the trial is written to ``docs/live_trial.md``.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from tests.live.servers import FINISHED, LiveDagster
from tests.live.world import TinyProject

pytestmark = pytest.mark.timeout(5400)

Partition = tuple[str, str | None]
VARIANT = "topk-d64-k4"
TICK_S = 5
BY_VARIANT = ("consistency", "model_versions", "explanation_similarity")
BY_RUN = ("sae", "contexts", "explanations", "explanation_scores")


class Trial:
    """Changes, and what they led to."""

    def __init__(self, project: TinyProject, live: LiveDagster):
        self.project, self.live = project, live
        self.lines: list[str] = []
        self.seen: set[str] = set()
        self.partitions: dict[str, list[Partition]] = {}

    def expect(self, title: str, change: Callable[[], None], expected: Iterable[Partition]) -> None:
        """Make a change, wait until all is quiet, and compare what automation has materialized with what it should."""
        start = time.monotonic()
        change()
        self.wait_until_quiet()
        made = self.made_since()
        self.log(title, made, time.monotonic() - start)
        assert Counter(made) == Counter(expected), title

    def wait_until_quiet(self) -> None:
        """All is fresh and nothing is under way, and stays so for three ticks."""
        self.live.wait_until(self.is_quiet, "all partitions are fresh and no run is under way", 900, every_s=2)
        end = time.monotonic() + 3 * TICK_S
        while time.monotonic() < end:
            time.sleep(1)
        self.live.wait_until(self.is_quiet, "all partitions are fresh and no run is under way", 900, every_s=2)

    def is_quiet(self) -> bool:
        """Whether there is nothing to do."""
        if any(run["status"] not in FINISHED for run in self.live.runs()):
            return False
        return all(self.live.status(*each) == "FRESH" for every in self.partitions.values() for each in every)

    def made_since(self) -> list[Partition]:
        """What runs of automation have materialized since this was last asked."""
        new = [run for run in self.live.runs() if run["runId"] not in self.seen]
        self.seen |= {run["runId"] for run in new}
        by_itself = [run for run in new if run["jobName"] == "__ASSET_JOB" and run["status"] == "SUCCESS"]
        looked_at = ("model/", "corpus/")
        return sorted(
            (asset, run["partition"]) for run in by_itself for asset in run["assets"] if not asset.startswith(looked_at)
        )

    def log(self, title: str, made: list[Partition], seconds: float) -> None:
        """A line for each asset."""
        now = datetime.now(UTC).strftime("%H:%M:%S")
        lines = [f"\n### {title}\n\n{now} UTC, quiet after {seconds:.0f} s. Made by itself:\n"]
        found: dict[str, list[str]] = {}
        for (asset, partition), times in Counter(made).items():
            named = [f"`{partition}`"] * bool(partition) + [f"({times} times)"] * (times > 1)
            found.setdefault(asset, []).append(" ".join(named))
        for asset, partitions in found.items():
            lines.append(f"* `{asset}` {', '.join(partitions)}".rstrip())
        if not made:
            lines.append("* nothing")
        print("\n".join(lines), flush=True)
        self.lines += lines


def of_study(name: str, seeds: Iterable[int] = (0, 1), variants: Iterable[str] = (VARIANT,)) -> list[Partition]:
    """Every partition of a study."""
    variants, seeds = list(variants), list(seeds)
    runs = [f"{seed}|{variant}" for variant in variants for seed in seeds]
    found: list[Partition] = [(f"{name}/{asset}", run) for asset in BY_RUN for run in runs]
    found += [(f"{name}/{asset}", variant) for asset in BY_VARIANT for variant in variants]
    return [*found, (f"{name}/report", None)]


def activations(model: str) -> Partition:
    return (f"activations/{model}/model_layers_1", None)


def study(project: TinyProject, name: str, model: str, **changes: object) -> None:
    settings = {
        "model": model,
        "variants": [{"architecture": "topk", "d_sae": 64, "k": 4}],
        "seeds": [0, 1],
        "automation": "when_stale",
    }
    project.add_study(name, **settings | changes)


def test_exactly_what_depends_on_a_change_reruns(tmp_path: Path) -> None:
    project = TinyProject(tmp_path)
    for number, name in enumerate(("model-a", "model-b")):
        project.add_model(name, seed=number)
    project.remove_model("tiny-llama")
    settings = project.home / "dagster.yaml"  # a run that was killed before it began need not be waited for so long
    settings.write_text(settings.read_text().replace("start_timeout_seconds: 300", "start_timeout_seconds: 60"))
    study(project, "alpha", "model-a", automation="eager")
    study(project, "beta", "model-b")
    with project.live(SAE_CONCORD_TICK_S=str(TICK_S)) as live:
        trial = Trial(project, live)
        try:
            _walk(trial)
        finally:
            if folder := os.environ.get("TRIAL_DOCS"):
                (Path(folder) / "live_trial.md").write_text(_page(trial))


def _walk(trial: Trial) -> None:
    project, live = trial.project, trial.live

    def observe() -> None:
        for model in ("model_a", "model_b"):
            assert live.wait_for_run(live.launch(job=f"observe_{model}")) == "SUCCESS"

    def changed(**settings: object) -> None:
        study(project, "alpha", "model-a", **settings)
        live.reload()

    trial.partitions["alpha"] = [activations("model-a"), *of_study("alpha")]
    trial.expect(
        "The study `alpha` is `eager`: it is made from nothing. `beta` is `when_stale` and waits for its first report",
        observe, trial.partitions["alpha"],
    )  # fmt: skip
    everything = ["activations/model-b/model_layers_1", *dict.fromkeys(key for key, _ in of_study("beta"))]
    live.wait_for_backfill(live.backfill(*everything), timeout_s=900)
    trial.partitions["beta"] = [activations("model-b"), *of_study("beta")]
    trial.wait_until_quiet()
    trial.made_since()

    def new_weights(seed: int) -> None:
        project.new_weights("model-a", seed)
        observe()

    trial.expect("The same weights of `model-a` are written again", lambda: new_weights(0), [])
    trial.expect("New weights of `model-a`", lambda: new_weights(10), trial.partitions["alpha"])

    settings: dict[str, object] = {"explanations": {"min_activations": 3, "explainers": [_OTHER_EXPLAINER]}}
    explained = ("explanations", "explanation_scores", "explanation_similarity", "report")
    trial.expect("Another explainer", lambda: changed(**settings), _stages(of_study("alpha"), *explained))

    def new_code() -> None:
        project.code_version("explanation_scores", "trial")
        live.reload()

    trial.expect(
        "A new version of the code that scores explanations, with which the same scores come out: nothing below them",
        new_code,
        _stages(of_study("alpha") + of_study("beta"), "explanation_scores"),
    )

    def killed(kill: Callable[[], None], seed: int) -> None:
        new_weights(seed)
        live.wait_until(lambda: _under_way(live), "training is under way", 300)
        kill()

    def daemon() -> None:
        live.kill_daemon()
        time.sleep(3)
        live.restart_daemon()

    def all_of_it() -> None:
        for name in ("daemon", "webserver", "code"):
            live.kill(name, signal.SIGKILL)
        live.start()

    trial.expect(
        "New weights, and the daemon is killed with `kill -9` while it works, and started again",
        lambda: killed(daemon, 11),
        trial.partitions["alpha"],
    )
    trial.expect(
        "New weights, and all is killed with `kill -9` while it works: daemon, webserver, code server, runs",
        lambda: killed(all_of_it, 12),
        trial.partitions["alpha"],
    )

    settings["seeds"] = [0, 1, 2]
    trial.partitions["alpha"] = [activations("model-a"), *of_study("alpha", (0, 1, 2))]
    of_third = [each for each in of_study("alpha", (0, 1, 2)) if each[1] is None or each[1][0] not in "01"]
    trial.expect("A third seed", lambda: changed(**settings), of_third)
    settings["variants"] = [{"architecture": "topk", "d_sae": 64, "k": k} for k in (4, 8)]
    both = (VARIANT, "topk-d64-k8")
    trial.partitions["alpha"] = [activations("model-a"), *of_study("alpha", (0, 1, 2), both)]
    trial.expect("A second variant", lambda: changed(**settings), of_study("alpha", (0, 1, 2), both[1:]))

    start = time.monotonic()
    killed(lambda: new_weights(14), 13)
    trial.wait_until_quiet()
    trial.log("New weights, and newer ones while they are worked on", trial.made_since(), time.monotonic() - start)
    _same_when_made_from_nothing(trial)


_OTHER_EXPLAINER = {"kind": "lexical", "n_clauses": 1}


def _stages(partitions: Iterable[Partition], *stages: str) -> list[Partition]:
    return [each for each in partitions if each[0].split("/")[1] in stages]


def _under_way(live: LiveDagster) -> bool:
    return any(run["status"] == "STARTED" and "alpha/sae" in run["assets"] for run in live.runs())


def _same_when_made_from_nothing(trial: Trial) -> None:
    """The end state is that of the last weights: made again from model and text alone, the report is the same."""
    done = trial.live.concord("reproduce", "alpha/report", "--all")
    trial.lines.append(f"\n### `concord reproduce alpha/report --all` at the end\n\n```\n{done.stdout.strip()}\n```")
    assert done.returncode == 0, done.stdout + done.stderr


def _page(trial: Trial) -> str:
    head = """# The live trial of automation

Written by `make trial` (`tests/live/test_trial.py`): a real daemon, webserver and code server, two tiny language models
with a study each. After every change the trial waits until all partitions are fresh and nothing runs for three ticks,
and asserts that exactly the partitions listed were made, each once. (In the last step, where weights change while those
before are worked on, it asserts the end: everything fresh. Runs that find other weights than their activations are of
fail, and are tried again.)
"""
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Dagster {dg.__version__}.\n"
    return f"{head}\n{where}" + "\n".join(trial.lines) + "\n"
