"""Which partitions are out of date and why, as users are told; and what happens when Dagster moves the class."""

import ast
import logging
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.keys import StudyKeys, activations_key
from assets.stale_statuses import Status, some_of, statuses_now
from sae_core import chain
from tests.automation_world import World, model_config, study_config, write_weights

ROOT = Path(__file__).resolve().parent.parent
K2 = "topk-d16-k2"
KEYS = StudyKeys("s")


@pytest.fixture
def world(tmp_path):
    logging.disable(logging.CRITICAL)
    with dg.DagsterInstance.ephemeral() as instance:
        world = World(instance, [model_config(tmp_path)], [study_config()])
        world.observe()
        world.files = tmp_path
        yield world
    logging.disable(logging.NOTSET)


def told(world, *keys):
    """Status and causes of every partition that is not fresh."""
    found = statuses_now(world.definitions, world.instance).of(keys or world.graph.get_all_asset_keys())
    return {str(each): (each.status, each.causes) for each in found if each.status is not Status.FRESH}


def test_what_was_never_made_is_missing_and_what_is_up_to_date_is_fresh(world):
    assert told(world, KEYS.consistency) == {f"s/consistency [{K2}]": (Status.MISSING, ("never materialized",))}
    world.make_all()
    assert told(world) == {}


def test_a_stale_partition_says_which_input_changed_and_what_is_below_it_waits(world):
    world.make_all()
    write_weights(world.files, "second")
    world.observe()
    found = told(world, activations_key("m", "h.1"), KEYS.sae, KEYS.consistency)
    assert found.pop("activations/m/h_1") == (Status.STALE, ("model/m: new dependency data version",))
    assert found.pop(f"s/sae [0|{K2}]") == (Status.BEHIND, ("waits for activations/m/h_1",))
    # What is to be made first, not all that lies between.
    assert found.pop(f"s/consistency [{K2}]") == (Status.BEHIND, ("waits for activations/m/h_1",))


def test_of_many_partitions_that_are_waited_for_three_are_named():
    assert some_of(["a", "b", "c"]) == "a, b, c"
    assert some_of(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_stale_partition_names_the_partition_that_changed(world):
    world.make_all()
    world.salt[f"s/sae [1|{K2}]"] = "other numbers"
    world.run(f"s/sae [1|{K2}]")
    assert told(world, KEYS.consistency) == {
        f"s/consistency [{K2}]": (Status.STALE, (f"s/sae [1|{K2}]: new dependency data version",))
    }


def test_changed_settings_or_code_are_named_as_such(world, monkeypatch):
    world.make_all()
    monkeypatch.setitem(chain.CODE_VERSION, "consistency", "new")
    world.load(world.models, [study_config()])
    status, causes = told(world, KEYS.consistency)[f"s/consistency [{K2}]"]
    assert (status, causes) == (Status.STALE, ("its settings or the version of its code changed",))


def test_an_input_that_was_not_there_yet_makes_stale_what_was_made_without_it(world):
    """Dagster's own resolver calls this fresh: a report made before its scores would lack them for good."""
    scores = [f"s/explanation_scores [{seed}|{K2}]" for seed in (0, 1)]
    order = ["activations/m/h_1"]
    order += [f"s/{stage} [{seed}|{K2}]" for stage in ("sae", "contexts", "explanations") for seed in (0, 1)]
    world.run(*order, f"s/consistency [{K2}]", f"s/explanation_similarity [{K2}]", "s/report")
    world.run(*scores)
    status, causes = told(world, KEYS.report)["s/report"]
    assert (status, causes) == (Status.STALE, ("s/explanation_scores: first materialized since then",))
    assert statuses_now(world.definitions, world.instance).is_out_of_date(KEYS.report, None)
    world.run("s/report")
    assert not statuses_now(world.definitions, world.instance).is_out_of_date(KEYS.report, None)


def test_whatever_is_out_of_date_far_above_is_seen(world):
    world.make_all()
    assert not statuses_now(world.definitions, world.instance).is_behind(KEYS.report, None)
    write_weights(world.files, "second")
    world.observe()
    statuses = statuses_now(world.definitions, world.instance)
    assert statuses.is_behind(KEYS.report, None)
    assert not statuses.is_out_of_date(KEYS.report, None)
    assert not statuses.is_behind(activations_key("m", "h.1"), None)
    assert not statuses.is_behind(KEYS.sae, f"0|{K2}", ignoring=[activations_key("m", "h.1")])


MOVED = """
import dagster._core.definitions.data_version as module
del module.CachingStaleStatusResolver
try:
    import assets.stale_statuses
except ImportError as error:
    print(error)
"""


def test_a_dagster_that_moved_the_private_class_is_refused_with_what_to_do():
    done = subprocess.run([sys.executable, "-c", MOVED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"dagster {dg.__version__} has moved what says which partitions are out of date" in done.stdout
    assert "dagster>=1.13.27,<1.14" in done.stdout
    assert "CachingStaleStatusResolver" in done.stdout


def test_nothing_else_of_the_project_imports_what_is_private_to_dagster():
    found = set()
    for folder in ("sae_core", "assets", "pipelines"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if any(
                    part.startswith("_") for name in names if name.startswith("dagster") for part in name.split(".")
                ):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == {"assets/stale_statuses.py"}
