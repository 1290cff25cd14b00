"""Which partitions the daemon would launch, tick by tick: exactly what is out of date, once, in order, and no more."""

import dagster as dg
import pytest

from assets.automation import automation_condition, strongest
from assets.components import model_definitions
from pipelines.automation import automation_definitions
from sae_core import chain
from tests.automation_world import K2, World, flat, made, model_config, study_config, synthetic_study, write_weights

pytestmark = pytest.mark.usefixtures("quiet_dagster")


def after_saes(study="s", variant=K2, seeds=(0, 1), new=(0, 1)):
    """What follows new SAEs of some seeds of a variant, tick by tick, but for the report."""
    of = {stage: [f"{study}/{stage} [{seed}|{variant}]" for seed in new] for stage in ("contexts", "explanations")}
    scores = [f"{study}/explanation_scores [{seed}|{variant}]" for seed in new]
    return [
        [f"{study}/consistency [{variant}]", *of["contexts"]],
        [*of["explanations"], f"{study}/model_versions [{variant}]"],
        [*scores, f"{study}/explanation_similarity [{variant}]"],
    ]


@pytest.mark.parametrize("real_runs", [True, False])
def test_new_weights_make_one_extraction_then_its_saes_then_what_compares_them_then_the_report(
    instance, tmp_path, real_runs
):
    world = made(instance, tmp_path, real_runs)
    write_weights(tmp_path, "second")
    assert world.tick() == []  # nobody looked yet
    world.observe()
    assert world.settle() == [
        ["activations/m/h_1"],
        [f"s/sae [0|{K2}]", f"s/sae [1|{K2}]"],
        *after_saes(),
        ["s/report"],
    ]


def test_a_comparison_of_seeds_waits_for_all_of_them(instance, tmp_path):
    world = made(instance, tmp_path)
    write_weights(tmp_path, "second")
    world.observe()
    world.run(*world.tick())
    world.tick()
    world.run(f"s/sae [0|{K2}]")  # the other one is still being trained
    assert world.tick() == [f"s/contexts [0|{K2}]", f"s/sae [1|{K2}]"]
    world.run(f"s/sae [1|{K2}]")
    assert f"s/consistency [{K2}]" in world.tick()


def test_new_weights_of_one_model_make_nothing_of_another(instance, tmp_path):
    studies = [study_config(), study_config(name="t", model="n")]
    world = World(instance, [model_config(tmp_path), model_config(tmp_path, name="n")], studies)
    world.observe("m")
    world.observe("n")
    world.make_all()
    assert world.tick() == []
    write_weights(tmp_path, "second", "n")
    world.observe("m")
    world.observe("n")
    requested = flat(world.settle())
    assert requested[0] == "activations/n/h_1"
    assert all(each.startswith(("activations/n/", "t/")) for each in requested)
    assert len(requested) == len(set(requested))


def test_identical_bytes_make_nothing(instance, tmp_path):
    world = made(instance, tmp_path)
    write_weights(tmp_path, "first")
    world.observe()
    assert world.tick() == []
    world.run("activations/m/h_1", f"s/sae [0|{K2}]")  # by hand, with the same content
    assert world.tick() == []


def test_new_weights_and_back_make_nothing_when_nobody_looked_in_between(instance, tmp_path):
    world = made(instance, tmp_path)
    write_weights(tmp_path, "second")
    world.observe()
    write_weights(tmp_path, "first")
    world.observe()
    assert world.tick() == []


def test_another_text_makes_everything_anew(instance, tmp_path):
    world = made(instance, tmp_path)
    (tmp_path / "m.jsonl").write_text('{"text": "other words"}')
    world.observe()
    assert world.tick() == ["activations/m/h_1"]


def test_one_more_seed_makes_that_seed_and_what_compares_the_seeds(instance, tmp_path):
    world = made(instance, tmp_path)
    world.load([model_config(tmp_path)], [study_config(seeds=[0, 1, 2])])
    assert world.settle() == [[f"s/sae [2|{K2}]"], *after_saes(new=(2,)), ["s/report"]]


def test_a_removed_seed_makes_the_comparisons_and_the_report_anew_and_trains_nothing(instance, tmp_path):
    world = made(instance, tmp_path, seeds=[0, 1, 2])
    world.load([model_config(tmp_path)], [study_config()])
    requests = world.settle()
    assert [each for each in flat(requests) if "model_versions" not in each] == [
        f"s/consistency [{K2}]",
        f"s/explanation_similarity [{K2}]",
        "s/report",
    ]


def test_one_more_variant_makes_that_variant_and_the_report(instance, tmp_path):
    world = made(instance, tmp_path)
    variants = [{"architecture": "topk", "d_sae": 16, "k": k} for k in (2, 3)]
    world.load([model_config(tmp_path)], [study_config(variants=variants)])
    k3 = "topk-d16-k3"
    assert world.settle() == [[f"s/sae [0|{k3}]", f"s/sae [1|{k3}]"], *after_saes(variant=k3), ["s/report"]]


def test_a_changed_explainer_makes_explanations_and_what_reads_them(instance, tmp_path):
    world = made(instance, tmp_path)
    changed = study_config(explanations={"explainers": [{"kind": "lexical", "n_clauses": 8}]})
    world.load([model_config(tmp_path)], [changed])
    requests = [[each for each in tick if "model_versions" not in each] for tick in world.settle()]
    assert requests == [
        [f"s/explanations [0|{K2}]", f"s/explanations [1|{K2}]"],
        [f"s/explanation_scores [0|{K2}]", f"s/explanation_scores [1|{K2}]", f"s/explanation_similarity [{K2}]"],
        ["s/report"],
    ]


def test_a_new_code_version_makes_its_stage_and_what_reads_it(instance, tmp_path, monkeypatch):
    world = made(instance, tmp_path)
    monkeypatch.setitem(chain.CODE_VERSION, "consistency", "new")
    world.load([model_config(tmp_path)], [study_config()])
    requests = flat(world.settle())
    assert requests[0] == f"s/consistency [{K2}]"
    assert requests[-1] == "s/report"
    assert not any(stage in each for each in requests for stage in ("sae", "contexts", "explanations", "activations"))


def test_changes_at_both_ends_are_made_once_from_the_top(instance, tmp_path):
    """Dagster calls what lies two stages below a stale one fresh; a judge would be paid twice."""
    world = made(instance, tmp_path)
    training = {"n_steps": 20, "warmup_steps": 0, "sparsity_warmup_steps": 0}
    world.load([model_config(tmp_path)], [study_config(training=training, similarity={"n_permutations": 9})])
    requests = flat(world.settle())
    assert requests[:2] == [f"s/sae [0|{K2}]", f"s/sae [1|{K2}]"]
    assert len(requests) == len(set(requests))


def test_under_manual_nothing_is_made_or_looked_at(instance, tmp_path):
    world = World(instance, [model_config(tmp_path)], [study_config(automation="manual")])
    assert world.tick() == []
    world.observe()
    world.make_all()
    write_weights(tmp_path, "second")
    world.observe()
    assert world.tick() == []


def test_when_stale_begins_with_the_first_report(instance, tmp_path):
    world = World(instance, [model_config(tmp_path)], [study_config()])
    assert world.tick() == ["corpus/m", "model/m"]
    world.observe()
    assert world.tick() == []
    world.run("activations/m/h_1", f"s/sae [0|{K2}]")
    assert world.tick() == []
    world.make_all()
    write_weights(tmp_path, "second")
    world.observe()
    assert world.tick() == ["activations/m/h_1"]


def test_eager_makes_a_study_from_nothing(instance, tmp_path):
    world = World(instance, [model_config(tmp_path)], [study_config(automation="eager")])
    assert world.tick() == ["corpus/m", "model/m"]
    assert world.tick() == []  # it is looked at once; from then on by the schedule
    world.observe()
    assert world.settle() == [
        ["activations/m/h_1"],
        [f"s/sae [0|{K2}]", f"s/sae [1|{K2}]"],
        *after_saes(),
        ["s/report"],
    ]


def test_activations_that_studies_share_are_made_once_when_any_of_them_wants_them(instance, tmp_path):
    studies = [study_config(automation="manual"), study_config(name="t", automation="eager")]
    world = World(instance, [model_config(tmp_path)], studies)
    world.observe()
    requests = flat(world.settle())
    assert requests[0] == "activations/m/h_1"
    assert {each.split("/")[0] for each in requests[1:]} == {"t"}
    write_weights(tmp_path, "second")
    world.observe()
    assert world.settle()[0] == ["activations/m/h_1"]
    studies = [study_config(), study_config(name="t", automation="when_stale")]
    world.load([model_config(tmp_path)], studies)  # the report of t is there, that of s is not
    write_weights(tmp_path, "third")
    world.observe()
    assert {each.split("/")[0] for each in flat(world.settle())} == {"activations", "t"}


def test_an_update_that_lands_while_the_target_runs_is_not_lost(instance, tmp_path):
    world = made(instance, tmp_path)
    world.salt[f"s/sae [0|{K2}]"] = "other numbers"
    world.run(f"s/sae [0|{K2}]")
    assert f"s/consistency [{K2}]" in world.tick()

    def another_seed_lands():
        world.salt[f"s/sae [1|{K2}]"] = "other numbers"
        assert world.run(f"s/sae [1|{K2}]") == 1

    world.during[f"s/consistency [{K2}]"] = another_seed_lands
    world.run(f"s/consistency [{K2}]")
    assert f"s/consistency [{K2}]" in world.tick()


class Meanwhile(dg.AutomationCondition):
    """Always true; the first time it is asked, something happens."""

    def __init__(self, happens):
        self.happens = [happens]

    def evaluate(self, context):
        while self.happens:
            self.happens.pop()()
        return dg.AutomationResult(context, context.candidate_subset)


@pytest.mark.parametrize("partitions", [dg.StaticPartitionsDefinition(["a"]), None])
def test_a_run_that_ends_while_the_daemon_looks_is_not_requested_once_more(instance, partitions):
    """Dagster has read what was made before it looks at what is being made."""

    def ends():
        tags = {"dagster/data_version": "x", "dagster/code_version": "1"}
        event = dg.AssetMaterialization("made", partition="a" if partitions else None, tags=tags)
        instance.report_runless_asset_event(event)

    condition = Meanwhile(ends) & automation_condition("eager", [])

    @dg.asset(code_version="1", partitions_def=partitions, automation_condition=condition)
    def made(): ...

    assert Ticks(instance, [made]).tick() == 0


def test_dagsters_own_eager_loses_the_same_update_and_ours_does_not(instance):
    """What the test above is worth: the stock condition leaves the target stale for good."""
    later = {"eager": dg.AutomationCondition.eager(), "ours": automation_condition("eager", [])}
    requests = {}
    for name, condition in later.items():
        versions, during = {"a": 0, "b": 0}, []

        @dg.asset(name=f"up_{name}", partitions_def=dg.StaticPartitionsDefinition(["a", "b"]))
        def up(context: dg.AssetExecutionContext):
            versions[context.partition_key] += 1  # noqa: B023 - called in this round only
            return dg.MaterializeResult(data_version=dg.DataVersion(f"{versions[context.partition_key]}"))  # noqa: B023

        mapping = dg.AllPartitionMapping()

        @dg.asset(name=f"fan_{name}", deps=[dg.AssetDep(up, partition_mapping=mapping)], automation_condition=condition)
        def fan():
            seen = digest_of(versions)  # noqa: B023
            while during:  # noqa: B023
                during.pop()()  # noqa: B023
            return dg.MaterializeResult(data_version=dg.DataVersion(seen))

        world = Ticks(instance, [up, fan])
        world.make(up, "a")
        world.make(up, "b")
        world.make(fan)
        world.tick(), world.tick()
        world.make(up, "a")
        assert world.tick() == 1
        during.append(lambda: world.make(up, "b"))  # noqa: B023
        world.make(fan)  # read the old b
        requests[name] = [world.tick() for _ in range(3)]
    assert sum(requests["eager"]) == 0
    assert requests["ours"][0] == 1


def digest_of(versions):
    return "-".join(map(str, versions.values()))


class Ticks:
    """A few assets, and what is requested of them."""

    def __init__(self, instance, assets):
        self.instance, self.assets, self.cursor = instance, assets, None

    def make(self, asset, partition=None):
        assert dg.materialize(self.assets, selection=[asset], partition_key=partition, instance=self.instance).success

    def tick(self):
        result = dg.evaluate_automation_conditions(self.assets, self.instance, cursor=self.cursor)
        self.cursor = result.cursor
        return result.total_requested


def test_the_strongest_policy_of_several_studies_is_theirs():
    assert strongest([]) == "manual"
    assert strongest(["manual", "when_stale", "manual"]) == "when_stale"
    assert strongest(["eager", "when_stale"]) == "eager"


def test_a_sensor_a_model_watches_its_studies_and_a_schedule_is_on_where_something_is_made_by_itself(tmp_path):
    models = [model_config(tmp_path), model_config(tmp_path, name="n")]
    studies = [study_config(), study_config(name="t", model="n", automation="manual"), study_config(name="u")]
    world = World(None, models, studies, [synthetic_study(language_model_study=None)])
    found = automation_definitions(models, studies, [synthetic_study()]).sensors
    assert sorted(sensor.name for sensor in found) == ["automation_m", "automation_synthetic_y"]
    (sensor,) = (sensor for sensor in found if sensor.name == "automation_m")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.run_tags["sae_concord/launched_by"] == "automation"
    watched = sensor.asset_selection.resolve(world.graph)
    assert {"/".join(key.path[:2]) for key in watched} >= {"model/m", "corpus/m", "activations/m", "s/report", "u/sae"}
    assert not any(key.path[0] in ("t", "y") or "n" in key.path for key in watched)
    for model, status in ((models[0], "RUNNING"), (models[1], "STOPPED")):
        (schedule,) = model_definitions(model, studies).schedules
        assert schedule.default_status.value == status


def test_a_sensor_launches_one_run_a_partition_and_says_that_nobody_asked(instance, tmp_path):
    world = World(instance, [model_config(tmp_path)], [study_config(automation="eager")])
    world.observe()
    sensors = automation_definitions([model_config(tmp_path)], [study_config(automation="eager")], [])
    definitions = dg.Definitions.merge(world.definitions, sensors)
    sensor = definitions.resolve_sensor_def("automation_m")
    context = dg.build_sensor_context(
        instance=instance, repository_def=definitions.get_repository_def(), sensor_name="automation_m"
    )
    found = sensor.evaluate_tick(context)
    (request,) = found.run_requests
    assert request.asset_selection == [dg.AssetKey(["activations", "m", "h_1"])]
    assert request.tags["sae_concord/launched_by"] == "automation"
