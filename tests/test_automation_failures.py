"""What automation does when a run fails, a check does not pass, a source vanished, or an input is optional."""

import dagster as dg
import pytest

from assets.keys import corpus_key, model_key
from tests.automation_world import K2, World, flat, made, model_config, study_config, synthetic_study, write_weights

pytestmark = pytest.mark.usefixtures("quiet_dagster")


def test_what_failed_is_tried_again_when_inputs_or_settings_changed_and_not_before(instance, tmp_path):
    world = made(instance, tmp_path)
    failing = f"s/sae [1|{K2}]"
    world.failing.add(failing)
    write_weights(tmp_path, "second")
    world.observe()
    requests = flat(world.settle())
    of_the_other = [f"s/{stage} [0|{K2}]" for stage in ("sae", "contexts", "explanations", "explanation_scores")]
    assert sorted(requests) == sorted(["activations/m/h_1", failing, *of_the_other])
    assert [world.tick() for _ in range(3)] == [[], [], []]
    world.run("activations/m/h_1")  # the same content: no reason to try again
    assert world.tick() == []
    write_weights(tmp_path, "third")
    world.observe()
    assert world.tick() == ["activations/m/h_1"]
    world.run("activations/m/h_1")
    assert world.tick() == [f"s/sae [0|{K2}]", failing]
    world.run(f"s/sae [0|{K2}]", failing)
    assert failing not in world.tick()
    training = {"n_steps": 20, "warmup_steps": 0, "sparsity_warmup_steps": 0}
    world.load([world.models[0]], [study_config(training=training)])
    assert failing in world.tick()


def test_a_terminated_run_is_not_started_again_by_itself(instance, tmp_path):
    world = made(instance, tmp_path)
    world.failing.add("activations/m/h_1")
    write_weights(tmp_path, "second")
    world.observe()
    world.run(*world.tick())
    (run,) = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    instance.report_run_canceled(run)
    assert instance.get_run_by_id(run.run_id).status is dg.DagsterRunStatus.CANCELED
    assert world.tick() == []
    instance.delete_run(run.run_id)
    assert world.tick() == ["activations/m/h_1"]


def test_what_did_not_pass_a_blocking_check_stops_what_reads_it_and_no_other_variant(instance, tmp_path):
    variants = [{"architecture": "topk", "d_sae": 16, "k": k} for k in (2, 3)]
    world = made(instance, tmp_path, variants=variants)
    world.bad_checks.add(f"s/sae [0|{K2}]")
    write_weights(tmp_path, "second")
    world.observe()
    requests = flat(world.settle())
    assert f"s/contexts [0|{K2}]" not in requests
    assert f"s/consistency [{K2}]" not in requests
    assert "s/report" not in requests
    assert f"s/contexts [1|{K2}]" in requests
    assert "s/explanation_similarity [topk-d16-k3]" in requests


def test_a_model_or_text_that_vanished_is_a_clear_failure_and_reruns_nothing(instance, tmp_path):
    world = made(instance, tmp_path)
    before = world.content(model_key("m")), world.content(corpus_key("m"))
    (tmp_path / "m" / "config.json").unlink()
    (tmp_path / "m.jsonl").unlink()
    result = world.observe()
    messages = [str(event.step_failure_data) for event in result.all_events if event.is_step_failure]
    assert len(messages) == 2
    assert any("no language model in" in message and "check source.path" in message for message in messages)
    assert any("no text in" in message and "check corpus.source.path" in message for message in messages)
    assert all("all results stay" in message for message in messages)
    assert (world.content(model_key("m")), world.content(corpus_key("m"))) == before
    assert [world.tick() for _ in range(3)] == [[], [], []]


def test_a_reproduction_is_made_without_a_language_model_study_that_nobody_made_and_again_once_it_is_there(
    instance, tmp_path
):
    study = study_config(automation="manual")
    world = World(instance, [model_config(tmp_path)], [study], [synthetic_study()])
    assert world.settle() == [["y/e"], ["y/reproduction"]]
    world.observe()
    world.run("activations/m/h_1", f"s/sae [0|{K2}]", f"s/sae [1|{K2}]", f"s/consistency [{K2}]")
    assert world.settle() == [["y/reproduction"]]


def test_a_reproduction_is_not_held_up_by_a_manual_study_that_is_out_of_date(instance, tmp_path):
    world = World(instance, [model_config(tmp_path)], [study_config(automation="manual")], [synthetic_study()])
    world.observe()
    world.make_all()
    changed = study_config(automation="manual", consistency={"n_null_draws": 1})
    more = synthetic_study(seeds=[0, 1, 2])
    world.load([model_config(tmp_path)], [changed], [more])
    assert world.settle() == [["y/e"], ["y/reproduction"]]
