"""Runs, events and schedules in a real PostgreSQL, with the settings of ``deploy/``; SQLite is the default."""

import signal

import pytest
import yaml

from tests.live.postgres import postgres
from tests.live.world import ROOT, STUDY, TinyProject

DEPLOY = ROOT / "deploy"
SEEDS = [0, 1, 2, 3]
VARIANT = "topk-d64-k4"


@pytest.fixture(scope="module")
def database():
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def live(database, tmp_path_factory):
    """Servers with the lab's settings; the tests of this file share them, and the seeds that the first one trains."""
    project = TinyProject(tmp_path_factory.mktemp("lab"), DEPLOY / "dagster.yaml")
    variant = {"architecture": "topk", "d_sae": 64, "k": 4}
    training = STUDY["training"] | {"n_steps": 400, "checkpoints": []}
    project.add_study("tiny", variants=[variant], seeds=SEEDS, training=training)
    # Long enough to be killed in the middle; saves where it is every few seconds.
    project.add_study("long", variants=[variant], training=training | {"n_steps": 20_000, "resume_minutes": 0.03})
    with project.live(**database.env, SAE_CONCORD_LOGS=str(project.root / "logs")) as running:
        running.project = project
        assert running.wait_for_run(running.launch("activations/tiny-llama/model_layers_1")) == "SUCCESS"
        yield running


def test_four_seeds_at_once_succeed_and_lie_in_postgresql_and_a_pool_holds_them_back(live, database):
    live.graphql(SET_LIMIT, {"pool": "training", "limit": 4})
    backfill = live.backfill("tiny/sae", partitions=[f"{seed}|{VARIANT}" for seed in SEEDS])
    live.wait_until(lambda: len(live.runs(dagster__backfill=backfill)) == 4, "the runs of the backfill")
    live.wait_until_idle()
    runs = live.runs(dagster__backfill=backfill)
    assert [run["status"] for run in runs] == ["SUCCESS"] * 4
    assert _most_at_once(runs) > 2, "the default of the pool is 2, and 4 were allowed"

    live.graphql(SET_LIMIT, {"pool": "training", "limit": 1})
    again = [live.launch("tiny/sae", partition={"seed": str(seed), "variant": VARIANT}) for seed in SEEDS[:2]]
    live.wait_until_idle()
    runs = [live.run(run) for run in again]
    assert [run["status"] for run in runs] == ["SUCCESS"] * 2
    assert _most_at_once(runs) == 1

    _check_tables(live, database)
    for name in live.started:
        assert "database is locked" not in live.log(name)
        assert "OperationalError" not in live.log(name)


def _check_tables(live, database):
    runs = database.ask("SELECT run_id, status FROM runs")
    assert {run for run, _ in runs} == {run["runId"] for run in live.runs()}
    assert {status for _, status in runs} == {"SUCCESS"}
    materialized = (
        "SELECT partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = "
    )
    partitions = [partition for (partition,) in database.ask(materialized + """'["tiny", "sae"]'""")]
    assert sorted(partitions) == sorted(f"{seed}|{VARIANT}" for seed in SEEDS + SEEDS[:2])
    assert database.ask("SELECT count(*) FROM bulk_actions") == [["1"]]
    assert not list(live.home.rglob("*.db")), "nothing is left in SQLite"
    assert any(live.project.root.joinpath("logs").rglob("*.err")), "what runs print lies in SAE_CONCORD_LOGS"


def test_a_run_whose_process_is_killed_is_found_and_started_again(live):
    killed = live.launch("long/sae", partition={"seed": "0", "variant": VARIANT})
    live.wait_until(lambda: any("of 20,000" in line for line in live.logs(killed)), "the run trains")
    live.kill_run(killed)
    assert live.wait_for_run(killed) == "FAILURE"
    again = live.wait_until(lambda: live.runs(dagster__parent_run_id=killed), "the retry")[0]
    assert live.wait_for_run(again["runId"]) == "SUCCESS"


def test_a_run_goes_on_after_a_restart_of_the_code_server_however_long_that_takes(live):
    killed = live.launch("long/sae", partition={"seed": "1", "variant": VARIANT})
    live.wait_until(lambda: any("of 20,000" in line for line in live.logs(killed)), "the run trains")
    live.kill("code", signal.SIGTERM)  # with the runs, which are its children
    # Where the server is in going down decides which of the two Dagster does.
    waits = "Run dequeue failed to reach the user code server, re-submitting the run into the queue"
    gives_up = "Failed to retry run"

    def retries():
        return live.runs(dagster__root_run_id=killed)

    def is_without_code_server():
        lines = [line for run in (killed, *(run["runId"] for run in retries())) for line in live.logs(run)]
        return any(line.startswith((waits, gives_up)) for line in lines)

    live.wait_until(is_without_code_server, "the retry misses the code server")
    live.start_code()
    live.wait_until(lambda: any(run["status"] == "SUCCESS" for run in retries()), "a retry succeeds", 300)


def test_the_database_can_be_copied_and_migrated(live, database):
    live.wait_until_idle()
    dump = live.project.root / "dagster.dump"
    database.run("pg_dump", "-d", "dagster", "--format=custom", "--file", str(dump))
    database.run("createdb", "restored")
    database.run("pg_restore", "-d", "restored", "--no-owner", str(dump))
    count = "SELECT count(*), max(id) FROM event_logs"
    assert database.ask(count, "restored") == database.ask(count)
    migrated = live.command("instance", "migrate")
    assert migrated.returncode == 0, migrated.stderr


def test_sqlite_is_the_default(tmp_path):
    project = TinyProject(tmp_path)
    assert "storage" not in yaml.safe_load((project.home / "dagster.yaml").read_text())
    with project.live() as running:
        assert "postgres" not in running.command("instance", "info").stdout
    assert [path.name for path in project.home.rglob("runs.db")] == ["runs.db"]


SET_LIMIT = """mutation($pool: String!, $limit: Int!) { setConcurrencyLimit(concurrencyKey: $pool, limit: $limit) }"""


def _most_at_once(runs):
    """The largest number of these runs that were under way at the same time."""
    moments = [(run["startTime"], 1) for run in runs] + [(run["endTime"], -1) for run in runs]
    most = now = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most
