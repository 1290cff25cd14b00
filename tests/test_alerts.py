"""Alerts: every failure once, to the file and the hook, and nothing a hook does stops them."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import dagster as dg
import pytest

from assets.checks import declared_checks
from pipelines.alert_hooks import Alert, HookError, alerts_file, deliver, load_hook
from pipelines.alerts import alert_definitions
from sae_core.config import ChecksConfig

HOOKED = []


def remember(alert):
    """A hook."""
    HOOKED.append(alert)


def broken(alert):
    """A hook that fails."""
    raise RuntimeError("no network")


@dg.asset(
    check_specs=[
        dg.AssetCheckSpec("certified", asset="thing", blocking=True),
        dg.AssetCheckSpec("fve", asset="thing"),
    ],
    partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
)
def thing(context: dg.AssetExecutionContext):
    certified, fve = (context.run.tags.get(name, "true") == "true" for name in ("certified", "fve"))
    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    values = {"value": 0.5, "what_to_do": "train longer"}
    return dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(check_name="certified", passed=certified, severity=error),
            dg.AssetCheckResult(check_name="fve", passed=fve, severity=warn, description="too low", metadata=values),
        ]
    )


@dg.asset
def broken_asset():
    try:
        int("none")
    except ValueError as error:  # the reason is what the asset says, not what it came from
        raise ValueError("d_sae must be above 2") from error


class World:
    """A Dagster instance, and the two sensors with their cursors."""

    def __init__(self, instance):
        self.instance, self.cursors = instance, {}
        self.sensors = {sensor.name: sensor for sensor in alert_definitions().sensors}

    def run(self, asset=thing, partition="a", **tags):
        partition = partition if asset is thing else None
        return dg.materialize(
            [asset], instance=self.instance, partition_key=partition, tags=tags, raise_on_error=False
        ).run_id

    def tick(self, name="alert_on_check_failure"):
        """What a tick adds to the file."""
        before = len(self.lines())
        sensor = self.sensors[name]
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursors.get(name), sensor_name=name, repository_def=_REPOSITORY
        ) as context:
            self.cursors[name] = sensor.evaluate_tick(context).cursor
        return self.lines()[before:]

    def lines(self):
        path = alerts_file(self.instance)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


_REPOSITORY = dg.Definitions(assets=[thing, broken_asset]).get_repository_def()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.delenv("SAE_CONCORD_ALERT_HOOK", raising=False)
    monkeypatch.delenv("SAE_CONCORD_UI", raising=False)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield World(instance)


def test_every_failed_check_is_reported_once_with_what_it_found(world):
    assert world.tick() == []
    run_id = world.run(fve="false")
    (line,) = world.tick()
    assert world.tick() == []
    time = line.pop("time")
    assert time.endswith("+00:00")
    assert line == {
        "severity": "warning",
        "kind": "check_warned",
        "message": "too low",
        "asset": "thing",
        "partition": "a",
        "check": "fve",
        "run_id": run_id,
        "url": "/assets/thing?view=checks&checkDetail=fve",
        "values": {"value": 0.5, "what_to_do": "train longer"},
    }


def test_a_blocking_check_is_an_error_and_every_new_evaluation_is_reported(world):
    world.tick()
    for _ in range(2):
        world.run(certified="false")
        (line,) = world.tick()
        assert (line["kind"], line["severity"], line["check"]) == ("check_failed", "error", "certified")


def test_history_from_before_the_first_tick_is_not_reported(world):
    world.run(fve="false")
    assert world.tick() == []
    world.run(partition="b", fve="false")
    assert [line["partition"] for line in world.tick()] == ["b"]


def test_a_check_that_passes_again_is_reported_for_the_partition_that_failed(world):
    world.tick()
    world.run(fve="false")
    world.tick()
    world.run(partition="b")
    assert world.tick() == []
    world.run()
    (line,) = world.tick()
    assert (line["kind"], line["partition"], line["severity"]) == ("recovered", "a", "info")
    world.run()
    assert world.tick() == []


def test_checks_of_many_runs_between_two_ticks_are_all_reported_a_part_in_each_tick(world, monkeypatch):
    monkeypatch.setattr("pipelines.alerts._AT_ONCE", 3)
    world.tick()
    ids = [world.run(fve="false", certified="false") for _ in range(2)]
    found = [world.tick(), world.tick(), world.tick()]
    assert [len(lines) for lines in found] == [3, 1, 0]
    reported = [(line["run_id"], line["check"]) for lines in found for line in lines]
    assert sorted(reported) == sorted((run_id, check) for run_id in ids for check in ("certified", "fve"))


def test_a_run_that_gets_a_tag_long_after_its_end_is_not_reported_again(world, monkeypatch):
    monkeypatch.setattr("pipelines.alerts._OVERLAP_S", 0.0)
    world.tick()
    run_id = world.run(fve="false")
    assert len(world.tick()) == 1
    assert world.tick() == []
    world.instance.add_run_tags(run_id, {"note": "looked at"})
    assert world.tick() == []


def test_checks_of_a_run_that_still_runs_are_reported_before_it_ends(world):
    world.tick()
    seen = []

    @dg.asset(deps=[thing])
    def later():
        seen.extend(world.tick())

    dg.materialize(
        [dg.asset(check_specs=[dg.AssetCheckSpec("c", asset="first")], name="first")(_failing), _after(later, seen)],
        instance=world.instance,
    )
    assert [line["check"] for line in seen] == ["c"]
    assert world.tick() == []


def _failing():
    return dg.MaterializeResult(
        check_results=[dg.AssetCheckResult(check_name="c", passed=False, severity=dg.AssetCheckSeverity.WARN)]
    )


def _after(later, seen):
    @dg.asset(deps=["first"])
    def second():
        later.op.compute_fn.decorated_fn()

    return second


def test_every_failed_run_is_reported_once_with_its_reason(world):
    name = "alert_on_run_failure"
    world.run(broken_asset)
    assert world.tick(name) == []
    run_id = world.run(broken_asset)
    (line,) = world.tick(name)
    assert (line["kind"], line["run_id"], line["url"]) == ("run_failed", run_id, f"/runs/{run_id}")
    assert line["message"].endswith("d_sae must be above 2")
    assert world.tick(name) == []


def test_the_hook_gets_every_alert_besides_the_file(world, monkeypatch):
    monkeypatch.setenv("SAE_CONCORD_ALERT_HOOK", f"{__name__}:remember")
    monkeypatch.setenv("SAE_CONCORD_UI", "http://127.0.0.1:3000/")
    HOOKED.clear()
    world.tick()
    world.run(fve="false")
    assert len(world.tick()) == 1
    (alert,) = HOOKED
    assert isinstance(alert, Alert)
    assert alert.url.startswith("http://127.0.0.1:3000/assets/thing")
    assert str(alert) == "check_warned: thing [a], fve: too low"


def test_a_hook_that_raises_is_an_alert_of_its_own_and_stops_nothing(world, monkeypatch):
    monkeypatch.setenv("SAE_CONCORD_ALERT_HOOK", f"{__name__}:broken")
    world.tick()
    world.run(fve="false", certified="false")
    lines = world.tick()
    assert [line["kind"] for line in lines] == ["check_failed", "hook_failed", "check_warned", "hook_failed"]
    assert "raised RuntimeError('no network')" in lines[1]["message"]
    assert world.tick() == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:f", "cannot be imported"),
        (f"{__name__}:no_such_function", "cannot be imported"),
        (f"{__name__}:HOOKED", "is a list, expected a function"),
        ("only_a_module", "must be package.module:function"),
    ],
)
def test_a_hook_that_is_not_there_is_said_where_people_look_and_takes_nothing_down(world, monkeypatch, name, message):
    monkeypatch.setenv("SAE_CONCORD_ALERT_HOOK", name)
    with pytest.raises(HookError, match=message):
        load_hook()
    for sensor in alert_definitions().sensors:
        assert message in sensor.description
    deliver(Alert("error", "run_failed", "it failed"), world.instance, logging.getLogger("test"))
    assert [line["kind"] for line in world.lines()] == ["run_failed", "hook_failed"]


def test_a_file_that_cannot_be_written_stops_neither_the_log_nor_the_hook(world, monkeypatch, caplog):
    monkeypatch.setenv("SAE_CONCORD_ALERT_HOOK", f"{__name__}:remember")
    HOOKED.clear()
    alerts_file(world.instance).mkdir()
    deliver(Alert("error", "run_failed", "it failed"), world.instance, logging.getLogger("test"))
    assert len(HOOKED) == 1
    assert "cannot be written" in caplog.text


def test_both_sensors_run_without_being_switched_on():
    assert {sensor.default_status for sensor in alert_definitions().sensors} == {dg.DefaultSensorStatus.RUNNING}


def test_the_example_hook_posts_an_alert_to_a_webhook(world, monkeypatch):
    bodies = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args): ...

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    monkeypatch.setenv("ALERT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("SAE_CONCORD_ALERT_HOOK", "examples.alert_hook:post")
    deliver(Alert("error", "run_failed", "it failed", url="/runs/1"), world.instance, logging.getLogger("test"))
    thread.join()
    server.server_close()
    assert bodies == [{"text": "run_failed: it failed\n/runs/1"}]
    assert [line["kind"] for line in world.lines()] == ["run_failed"]


def test_every_check_is_in_the_documentation():
    text = (Path(__file__).resolve().parent.parent / "docs" / "alerts.md").read_text()
    names = {name for described in declared_checks().values() for name in described} | {"in_store"}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    assert [name for name in ChecksConfig.model_fields if f"`{name}`" not in text] == []
