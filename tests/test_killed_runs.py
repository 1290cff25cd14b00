"""Runs whose process was killed are closed, and launched anew; those of living processes and other hosts are not."""

import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import consume_new_runs_for_automatic_reexecution

from assets.processes import PROCESS_TAG, Process, this_process
from pipelines.killed_runs import TRIED_AGAIN, close_killed_runs, close_killed_runs_of, retry_given_up_of

ROOT = Path(__file__).resolve().parent.parent
STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE


@dg.asset
def thing():
    raise dg.Failure("a setting is wrong", allow_retries=False)


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "dagster.yaml").write_text(
        "run_retries: {enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}\n"
        "telemetry: {enabled: false}\n"
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def status_of(instance, tag):
    job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, status=STARTED, tags={PROCESS_TAG: tag})
    close_killed_runs_of(instance)
    return instance.get_run_by_id(run.run_id).status


def test_a_run_whose_process_was_killed_is_closed_and_retried(instance, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.killed_run_worker", str(tmp_path)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert worker.stdout.readline() == "working\n"
        (run,) = instance.get_runs()
        assert Process.of_tag(run.tags[PROCESS_TAG]).pid == worker.pid
        assert close_killed_runs_of(instance) == []  # it lives
    finally:
        worker.send_signal(signal.SIGKILL)
    # Dead, but not waited for: a zombie, as the killed worker of a code server may be.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    with dg.build_sensor_context(instance=instance) as context:
        told = "closed 1 runs whose process was killed, tried 0 retries again"
        assert close_killed_runs(context).skip_message == told
    worker.communicate()
    run = instance.get_run_by_id(run.run_id)
    assert run.status == FAILURE
    events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.PIPELINE_FAILURE).records
    (failure,) = [record.event_log_entry.dagster_event for record in events]
    assert f"the process {worker.pid} of " in failure.message
    assert not instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    assert run.tags["dagster/will_retry"] == "true"


def test_a_failure_of_a_step_such_as_a_users_error_is_not_retried(instance):
    result = dg.materialize([thing], instance=instance, raise_on_error=False)
    assert instance.get_run_by_id(result.run_id).tags["dagster/will_retry"] == "false"


class NoCodeServer:
    """What the daemon retries with while the code server is away."""

    def __init__(self, instance):
        self.instance = instance

    def create_request_context(self):
        raise ConnectionError("the code server does not answer")


def retried_in_vain(instance, run):
    """What Dagster's daemon does when it sees that a run failed; fails for want of a code server."""
    records = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
    list(consume_new_runs_for_automatic_reexecution(NoCodeServer(instance), records, logging.getLogger("test")))


def will_retry(instance, run):
    return instance.get_run_by_id(run.run_id).tags["dagster/will_retry"]


def test_a_retry_that_dagster_gave_up_for_want_of_a_code_server_is_tried_again_each_time_once(instance):
    job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, status=STARTED)
    instance.report_run_failed(run, "killed")
    assert retry_given_up_of(instance) == []  # Dagster has yet to retry it
    for _ in range(2):
        retried_in_vain(instance, run)
        assert will_retry(instance, run) == "false"
        assert retry_given_up_of(instance) == [run.run_id]
        assert will_retry(instance, run) == "true"
        assert retry_given_up_of(instance) == []
    failures = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    assert [record.event_log_entry.message for record in failures] == ["killed", TRIED_AGAIN, TRIED_AGAIN]


def test_runs_that_are_not_to_be_retried_are_not_tried_again(instance):
    result = dg.materialize([thing], instance=instance, raise_on_error=False)
    retried_in_vain(instance, result.dagster_run)
    assert will_retry(instance, result.dagster_run) == "false"
    assert retry_given_up_of(instance) == []


def test_a_number_that_another_process_got_since_is_not_taken_for_the_process(instance):
    here = this_process()
    assert status_of(instance, here.tag) == STARTED
    assert status_of(instance, replace(here, started=here.started - 60).tag) == FAILURE


def test_runs_of_other_hosts_and_of_no_known_process_are_left_alone(instance):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = replace(this_process(), pid=gone.pid)
    assert status_of(instance, here.tag) == FAILURE
    assert status_of(instance, replace(here, host="elsewhere").tag) == STARTED
    for tag in ("", "host:12", "a:b:c"):
        assert status_of(instance, tag) == STARTED


def test_a_run_that_ended_well_right_before_its_process_did_stays_so(instance, monkeypatch):
    job = dg.Definitions(assets=[thing]).resolve_implicit_global_asset_job_def()
    tag = replace(this_process(), started=0.0).tag
    run = instance.create_run_for_job(job, status=STARTED, tags={PROCESS_TAG: tag})
    listed = instance.get_runs()
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", job.name), run.run_id)
    monkeypatch.setattr(instance, "get_runs", lambda *args, **kwargs: listed)
    assert close_killed_runs_of(instance) == []
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS


def test_the_start_of_a_process_is_the_same_from_inside_and_outside():
    child = subprocess.Popen(
        [sys.executable, "-c", "from assets.processes import this_process as p; print(p().tag); input()"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    process = Process.of_tag(child.stdout.readline())
    assert (process.pid, process.is_here, process.lives) == (child.pid, True, True)
    child.communicate("\n")
    assert not process.lives
