"""A code server, a webserver and a daemon of their own, and what one asks them through GraphQL."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.live import queries

LOCATION = "sae_concord"
_READY_S = 120.0
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
BACKFILL_FINISHED = ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def listens(port: int) -> bool:
    """Whether something answers on this port of 127.0.0.1."""
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


class LiveDagster:
    """The three processes of a Dagster deployment on 127.0.0.1, on one home.

    A context manager: on leaving, every process that it started is gone, and so are the runs that those started.
    """

    def __init__(self, home: Path, module: str, folder: Path, env: Mapping[str, str] | None = None):
        """Nothing starts yet.

        Args:
            home: ``DAGSTER_HOME``, with a dagster.yaml.
            module: the definitions.
            folder: where that module is found, and the working directory.
            env: joins the environment of all three processes and of the runs.
        """
        self.home, self.module, self.folder = home, module, folder
        self.port, self.code_port = free_port(), free_port()
        self.env = os.environ | _ENVIRONMENT | {"DAGSTER_HOME": str(home)} | dict(env or {})
        self.workspace = home / "workspace.yaml"
        server = {"host": "127.0.0.1", "port": self.code_port, "location_name": LOCATION}
        self.workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    # processes

    def __enter__(self) -> "LiveDagster":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> "LiveDagster":
        """All three, and wait until the definitions are loaded and the daemon works."""
        self.start_code()
        self.start_webserver()
        self.restart_daemon()
        return self

    def start_code(self) -> None:
        """The code server, and wait until it answers."""
        self._start("code", [*_dagster("dagster"), "code-server", "start", "-m", self.module, "-d", str(self.folder),
                             "-h", "127.0.0.1", "-p", str(self.code_port), "--location-name", LOCATION])  # fmt: skip
        self.wait_until(lambda: listens(self.code_port), "the code server answers", _READY_S)

    def start_webserver(self) -> None:
        """The webserver, and wait until it has the definitions."""
        self._start("webserver", [*_dagster("dagster_webserver"), "-h", "127.0.0.1", "-p", str(self.port),
                                  "-w", str(self.workspace)])  # fmt: skip
        self.wait_until(self.loaded, "the webserver has loaded the definitions", _READY_S)

    def start_read_only(self) -> int:
        """A second webserver, for guests; its port when it answers."""
        port = free_port()
        self._start("guests", [*_dagster("dagster_webserver"), "-h", "127.0.0.1", "-p", str(port),
                               "-w", str(self.workspace), "--read-only"])  # fmt: skip
        self.wait_until(lambda: listens(port), "the webserver for guests answers", _READY_S)
        return port

    def restart_daemon(self) -> None:
        """A new daemon process (the old one is stopped where there is one), and wait for its first heartbeats."""
        self.kill("daemon", signal.SIGTERM)
        before = time.time()
        self._start("daemon", [*_dagster("dagster._daemon"), "run", "-w", str(self.workspace)])
        self.wait_until(lambda: self._heartbeats_since(before), "the daemon's heartbeats", _READY_S)

    def kill_daemon(self) -> None:
        """SIGKILL, as when the machine runs out of memory; nothing is tidied up. Runs go on."""
        self.kill("daemon", signal.SIGKILL)

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one of ``code``, ``webserver``, ``guests``, ``daemon``, and all that it started."""
        process = self.started.pop(name, None)
        if process is None:
            return
        family = _family(process.pid)
        for member in family:  # all of them get the signal, as from systemd
            _signal(member, how)
        _, left = psutil.wait_procs(family, timeout=10)
        for member in left:
            _signal(member, signal.SIGKILL)
        psutil.wait_procs(left, timeout=10)
        process.wait(timeout=10)

    def stop(self) -> None:
        """End every process that was started here."""
        for name in ("daemon", "guests", "webserver", "code"):
            self.kill(name, signal.SIGTERM)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``dagster ...`` in the environment of the servers."""
        return subprocess.run(
            [*_dagster("dagster"), *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def concord(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``concord ...`` in the environment of the servers, and with the code that they have loaded."""
        code = "import pipelines.definitions; from pipelines.cli import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600)

    def kill_run(self, run_id: str) -> None:
        """SIGKILL to the process that executes a run, as when the machine runs out of memory."""
        pids = [found[1] for line in self.logs(run_id) if (found := re.search(r"process for run \(pid: (\d+)\)", line))]
        assert pids, f"run {run_id} has no process yet"
        os.kill(int(pids[-1]), signal.SIGKILL)

    def _start(self, name: str, command: Sequence[str]) -> None:
        with open(self.home / f"{name}.log", "ab") as log:
            self.started[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def log(self, name: str) -> str:
        """What ``code``, ``webserver`` or ``daemon`` has written, without colours."""
        return re.sub(r"\x1b\[\d*m", "", (self.home / f"{name}.log").read_text(errors="replace"))

    def _heartbeats_since(self, moment: float) -> bool:
        # A daemon that was killed counts as healthy for minutes: only new heartbeats show that the new one works.
        found = self.graphql(queries.DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        required = [daemon for daemon in found if daemon["required"]]
        return all((daemon["lastHeartbeatTime"] or 0) >= moment for daemon in required)

    # asking

    @property
    def url(self) -> str:
        """Of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data of an answer.

        Raises:
            RuntimeError: with the errors, where there are some.
        """
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        if found.get("errors"):
            raise RuntimeError(f"GraphQL: {json.dumps(found['errors'])[:2000]}")
        data: dict[str, Any] = found["data"]
        return data

    def wait_until(self, holds: Callable[[], Any], what: str, timeout_s: float = 120.0, every_s: float = 0.5) -> Any:
        """Poll until ``holds()`` is true, and return what it returned.

        Raises:
            RuntimeError: after ``timeout_s``, or at once if one of the processes has ended; with the ends of the logs.
        """
        end, found = time.monotonic() + timeout_s, None
        while time.monotonic() < end:
            for name, process in self.started.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}")
            try:
                if found := holds():
                    return found
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # not up yet
            time.sleep(every_s)
        logs = "\n".join(f"--- {name}\n{self.log(name)[-1500:]}" for name in self.started)
        raise RuntimeError(f"not after {timeout_s:.0f} s: {what}; last seen: {found!r}\n{logs}")

    # definitions

    def loaded(self) -> bool:
        """Whether the code location is there, without an error.

        Raises:
            RuntimeError: with the error of the definitions.
        """
        entries = self.graphql(queries.LOCATIONS)["workspaceOrError"].get("locationEntries", [])
        for entry in entries:
            found = entry["locationOrLoadError"] or {}
            if found.get("__typename") == "PythonError":
                causes = [found["message"], *(link["error"]["message"] for link in found["errorChain"])]
                raise RuntimeError("the definitions do not load: " + "\n".join(causes))
        return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

    def reload(self) -> None:
        """What the button *Reload definitions* does, after YAML files have changed."""
        self.graphql(queries.RELOAD, {"location": LOCATION})
        self.wait_until(self.loaded, "the definitions are loaded again")

    def switch_sensor(self, name: str, on: bool) -> None:
        """Turn a sensor on or off."""
        selector = {
            "repositoryName": "__repository__", "repositoryLocationName": LOCATION, "sensorName": name
        }  # fmt: skip
        self.graphql(queries.START_SENSOR if on else queries.RESET_SENSOR, {"selector": selector})

    # runs

    def launch(self, *keys: str, partition: str | Mapping[str, str] | None = None, job: str = "__ASSET_JOB") -> str:
        """Launch one run of assets (``a/b``), or of a job if no asset is named, and return its id.

        Args:
            partition: its key, or by dimension: ``{"seed": "0", "variant": "topk-d64-k4"}``.
        """
        selector: dict[str, Any] = {
            "repositoryName": "__repository__", "repositoryLocationName": LOCATION, "jobName": job,
        }  # fmt: skip
        if keys:
            selector["assetSelection"] = [{"path": key.split("/")} for key in keys]
        tags = [{"key": key, "value": value} for key, value in _partition_tags(partition).items()]
        parameters = {
            "selector": selector,
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": tags},
        }
        found = self.graphql(queries.LAUNCH, {"parameters": parameters})["launchPipelineExecution"]
        if "run" not in found:
            raise RuntimeError(f"not launched: {found}")
        return str(found["run"]["runId"])

    def backfill(self, *keys: str, partitions: Sequence[str] | None = None) -> str:
        """Launch a backfill over all partitions of assets, or over those named, and return its id."""
        parameters: dict[str, Any] = {"assetSelection": [{"path": key.split("/")} for key in keys]}
        parameters |= {"allPartitions": True} if partitions is None else {"partitionNames": list(partitions)}
        found = self.graphql(queries.BACKFILL, {"parameters": parameters})["launchPartitionBackfill"]
        if "backfillId" not in found:
            raise RuntimeError(f"no backfill: {found}")
        return str(found["backfillId"])

    def runs(self, limit: int = 200, **tags: str) -> list[dict[str, Any]]:
        """The latest runs, newest first: ``runId, status, jobName, tags, assets, partition, startTime, endTime``."""
        wanted = {"tags": [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]}
        found = self.graphql(queries.RUNS, {"limit": limit, "filter": wanted})["runsOrError"]["results"]
        for run in found:
            run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
            run["assets"] = sorted("/".join(asset["path"]) for asset in run.pop("assetSelection") or [])
            run["partition"] = run["tags"].get("dagster/partition")
        return list(found)

    def run(self, run_id: str) -> dict[str, Any]:
        """One run, as in ``runs``."""
        return next(run for run in self.runs() if run["runId"] == run_id)

    def wait_for_run(self, run_id: str, timeout_s: float = 120.0) -> str:
        """The status in which a run ended."""
        return str(
            self.wait_until(
                lambda: (status := self.run(run_id)["status"]) in FINISHED and status, f"run {run_id}", timeout_s
            )
        )

    def wait_for_backfill(self, backfill_id: str, timeout_s: float = 240.0) -> str:
        """The status in which a backfill ended."""

        def ended() -> str | None:
            status = self.graphql(queries.BACKFILL_STATUS, {"id": backfill_id})["partitionBackfillOrError"]["status"]
            return status if status in BACKFILL_FINISHED else None

        return str(self.wait_until(ended, f"backfill {backfill_id}", timeout_s, every_s=1))

    def wait_until_idle(self, timeout_s: float = 240.0) -> None:
        """Until no run is queued or under way."""
        self.wait_until(lambda: all(run["status"] in FINISHED for run in self.runs()), "no run is under way", timeout_s)

    def logs(self, run_id: str) -> list[str]:
        """The messages of a run."""
        found = self.graphql(queries.LOGS, {"id": run_id})["logsForRun"]["events"]
        return [event["message"] for event in found]

    def terminate(self, run_id: str) -> None:
        """What the button *Terminate* does."""
        self.graphql(queries.TERMINATE, {"id": run_id})

    # assets

    def status(self, key: str, partition: str | None = None) -> str:
        """Dagster's stale status of one partition: ``FRESH``, ``STALE`` or ``MISSING``."""
        found = self.graphql(queries.STALE, {"key": {"path": key.split("/")}, "partition": partition})
        return str(found["assetNodeOrError"]["staleStatus"])

    def materializations(self, key: str, partition: str | None = None) -> list[dict[str, Any]]:
        """Of an asset or one partition, newest first: ``runId, timestamp, partition, metadata`` (labels to values)."""
        variables = {"key": {"path": key.split("/")}, "partitions": None if partition is None else [partition]}
        found = self.graphql(queries.MATERIALIZATIONS, variables)["assetOrError"]["assetMaterializations"]
        for event in found:
            event["metadata"] = {entry["label"]: _value(entry) for entry in event.pop("metadataEntries")}
        return list(found)


_ENVIRONMENT = {
    # Many small processes on few cores.
    "OMP_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}


def _end_with_parent() -> None:
    """Linux ends this process when the one that started it is gone, however that ended."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _partition_tags(partition: str | Mapping[str, str] | None) -> dict[str, str]:
    if partition is None:
        return {}
    if isinstance(partition, str):
        return {"dagster/partition": partition}
    by_dimension = {f"dagster/partition/{name}": key for name, key in partition.items()}
    return by_dimension | {"dagster/partition": "|".join(key for _, key in sorted(partition.items()))}


def _dagster(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, which: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(which)


def _value(entry: Mapping[str, Any]) -> Any:
    for name in ("floatValue", "intValue", "boolValue", "text", "path", "mdStr", "jsonString", "table"):
        if entry.get(name) is not None:
            return entry[name]
    return None
