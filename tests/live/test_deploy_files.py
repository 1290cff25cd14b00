"""The files in ``deploy/`` are what systemd and Dagster read."""

import shutil
import subprocess

import pytest
import yaml

from tests.live.world import ROOT

DEPLOY = ROOT / "deploy"


def test_systemd_accepts_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    units = []
    for file in sorted(DEPLOY.glob("*.service")):
        # It looks for the programs, which lie elsewhere here.
        text = file.read_text().replace("/srv/sae-concord/.venv/bin/", "/bin/true ")
        units.append(tmp_path / file.name)
        units[-1].write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_name_programs_and_a_port_that_exist():
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())
    server = workspace["load_from"][0]["grpc_server"]
    lines = [line for file in DEPLOY.glob("*.service") for line in file.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("ExecStart=")]
    assert len(commands) == 3
    for command in commands:
        program = command.removeprefix("ExecStart=/srv/sae-concord/").split()[0]
        assert (ROOT / program).is_file(), program
    (code,) = [command for command in commands if "code-server" in command]
    assert f"--host {server['host']} --port {server['port']} --location-name {server['location_name']}" in code
