"""The jobs named for what people do: their forms, how far they go, how they stop and go on."""

import os
import signal

import dagster as dg
import pytest

from assets.keys import StudyKeys
from pipelines.failures import failure_message
from pipelines.jobs import JOB_TAG, LAUNCHED_BY, part_of_study, project_jobs
from pipelines.loading import ProjectFiles
from tests.test_pipelines import study_config, world  # noqa: F401

TOPK = {"architecture": "topk", "d_sae": 48, "k": 4}


def definitions_of(world, study):  # noqa: F811
    files = ProjectFiles({study.name: (study, world.model)}, {}, {world.model.name: world.model})
    return dg.Definitions.merge(
        world.definitions(study), dg.Definitions(jobs=project_jobs(files, world.definitions(study)))
    )


def launch(world, instance, config, job, **form):  # noqa: F811
    result = (
        definitions_of(world, config)
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance, run_config={"ops": {f"{job}_chain": {"config": form}}}, raise_on_error=False
        )
    )
    return result


def steps_of(instance, run_id):
    runs = instance.get_runs(dg.RunsFilter(tags={LAUNCHED_BY: run_id}))[::-1]
    chosen = [
        next(iter(run.asset_selection)).path[-1] + f" {run.tags.get('dagster/partition', '')}" for run in runs[1:]
    ]
    return [each.strip() for each in chosen]


def told(instance, run_id):
    return [e.user_message for e in instance.all_logs(run_id) if e.user_message.startswith("[")]


def test_measure_runs_up_to_the_comparison_each_step_a_run_and_the_log_says_how_far_it_is(world):  # noqa: F811
    world, instance = world
    study = study_config(variants=[TOPK | {"k": 5}, TOPK])
    result = launch(world, instance, study, "measure", study="tiny", variants=["topk-d48-k4"])
    assert result.success
    assert steps_of(instance, result.run_id) == [
        "model_layers_1",
        "sae 0|topk-d48-k4",
        "sae 1|topk-d48-k4",
        "consistency topk-d48-k4",
    ]
    lines = told(instance, result.run_id)
    assert len(lines) == 4
    assert lines[3].startswith("[ 4/4] consistency of topk-d48-k4: ")


def test_train_takes_some_seeds_and_extract_the_activations_alone(world):  # noqa: F811
    world, instance = world
    study = study_config(variants=[TOPK])
    extracted = launch(world, instance, study, "extract", model="tiny-llama")
    assert steps_of(instance, extracted.run_id) == ["model_layers_1"]
    trained = launch(world, instance, study, "train", seeds=[1])
    assert steps_of(instance, trained.run_id) == ["model_layers_1", "sae 1|topk-d48-k4"]
    assert told(instance, trained.run_id)[0].endswith(": cached")


def test_every_job_ends_with_its_stage(world):  # noqa: F811
    world, _ = world
    study = study_config()
    keys = StudyKeys("tiny")
    for stages, last in (
        (["sae"], keys.sae),
        (["consistency"], keys.consistency),
        (["explanations", "scores", "similarity"], keys.similarity),
    ):
        assert part_of_study(study, world.model, stages, [], []).steps[-1].key == last
    whole = part_of_study(study, world.model, [], [], [])
    assert keys.report in {step.key for step in whole.steps}


def test_names_that_there_are_not_are_refused_with_those_there_are(world):  # noqa: F811
    world, instance = world
    study = study_config(variants=[TOPK])
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type sae_concord_study got tinny"):
        launch(world, instance, study, "train", study="tinny")
    result = launch(world, instance, study, "train", variants=["topk-d48-k5"])
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "study tiny has no variants topk-d48-k5; it has topk-d48-k4" in str(failure.step_failure_data)
    assert steps_of(instance, result.run_id) == []
    result = launch(world, instance, study, "train", seeds=[7])
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "study tiny has no seeds 7; it has 0, 1" in str(failure.step_failure_data)


def test_a_failed_step_fails_the_job_with_its_reason(world):  # noqa: F811
    world, instance = world
    training = study_config().training.model_dump() | {"batch_size": 10_000_000}
    result = launch(world, instance, study_config(variants=[TOPK], training=training), "train")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "SAE topk-d48-k4, seed 0 failed: " in str(failure.step_failure_data)
    assert "batch_size" in str(failure.step_failure_data)


def test_the_forms_show_the_names_defaults_and_what_fields_mean(world):  # noqa: F811
    world, _ = world
    definitions = definitions_of(world, study_config())
    for name in ("train", "measure", "explain", "everything"):
        job = definitions.resolve_job_def(name)
        assert job.tags[JOB_TAG] == name
        assert job.description
        form = job.graph.node_defs[0].config_schema.config_type.fields
        assert form["study"].default_value == "tiny"
        assert "tiny" in form["study"].description
        assert all(field.description for field in form.values())


BEFORE_THE_STEP = dg.DagsterEventType.RUN_START
IN_THE_STEP = dg.DagsterEventType.STEP_START
AFTER_THE_STEP = dg.DagsterEventType.STEP_SUCCESS
AFTER_THE_RUN = dg.DagsterEventType.RUN_SUCCESS
BY_THE_ASSET = None
"""A line of the asset's own log."""
STOPPED = (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
ENDS = {
    BEFORE_THE_STEP: STOPPED,
    IN_THE_STEP: STOPPED,
    BY_THE_ASSET: STOPPED,
    AFTER_THE_STEP: STOPPED,
    AFTER_THE_RUN: (dg.DagsterRunStatus.SUCCESS,),
}
"""How the run of the step ends that is under way when the job is terminated."""


def terminate_at(monkeypatch, instance, job, asset, moment):
    """What terminating the run of a job in the UI does, at a moment of the first run of this asset.

    Dagster holds back an interrupt or raises it at once, depending on where it is just then.
    """
    done = []
    handle = type(instance).handle_new_event

    def and_terminate(self, event, **how):
        handle(self, event, **how)
        run = instance.get_run_by_id(event.run_id)
        own = event.dagster_event.event_type if event.is_dagster_event else BY_THE_ASSET
        if not done and own is moment and asset in (run.asset_selection or ()):
            done.append(event)
            (launching,) = [
                each
                for each in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
                if each.job_name == job
            ]
            instance.report_run_canceling(launching)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(type(instance), "handle_new_event", and_terminate)


@pytest.mark.parametrize("moment", ENDS)
def test_terminating_the_job_stops_the_chain_and_launching_it_again_goes_on(world, monkeypatch, moment):  # noqa: F811
    world, instance = world
    study = study_config(variants=[TOPK])
    with monkeypatch.context() as patch:
        patch.setattr("assets.recording._LOG_EVERY_S", 0.0)
        terminate_at(patch, instance, "train", StudyKeys("tiny").sae, moment)
        stopped = launch(world, instance, study, "train")
    assert instance.get_run_by_id(stopped.run_id).status == dg.DagsterRunStatus.CANCELED
    assert steps_of(instance, stopped.run_id) == ["model_layers_1", "sae 0|topk-d48-k4"]
    of_steps = instance.get_runs(dg.RunsFilter(tags={LAUNCHED_BY: stopped.run_id}))
    assert of_steps[0].status in ENDS[moment]
    (failure,) = [event for event in stopped.all_events if event.is_step_failure]
    assert "it was terminated; start it again, and it goes on where it stopped" in failure_message(failure)
    again = launch(world, instance, study, "train", seeds=[0])
    assert again.success
    assert told(instance, again.run_id)[0].endswith(": cached")


def test_a_run_marked_as_failed_from_outside_has_no_reason_of_its_own(instance):
    job = dg.JobDefinition(name="nothing", graph_def=dg.GraphDefinition(name="nothing"))
    failure = instance.report_run_failed(instance.create_run_for_job(job))
    assert failure_message(failure) == ""


def test_there_are_no_jobs_where_no_file_is_sound():
    assert project_jobs(ProjectFiles({}, {}), dg.Definitions()) == []
