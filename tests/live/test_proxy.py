"""The nginx lines of docs/deployment.md, as they stand there, before a real webserver."""

import base64
import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from tests.live.browser import browser
from tests.live.servers import free_port, listens
from tests.live.world import ROOT

ACTIVATIONS = "activations/tiny-llama/model_layers_1"
NAME, PASSWORD = "ada", "s3cret"


def basic(name, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def live(project):
    project.add_study("tiny", variants=[{"architecture": "topk", "d_sae": 64, "k": 4}], seeds=[0, 1])
    with project.live() as running:
        yield running


@pytest.fixture
def proxy(live, tmp_path):
    """Port of an nginx before the webserver; skips where there is none."""
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if nginx is None:
        pytest.skip("no nginx on this machine: apt-get install nginx-light")
    with _running(nginx, tmp_path / "nginx", live.port) as port:
        live.wait_until(lambda: listens(port), "nginx listens")
        yield port


def test_nobody_without_a_password_reaches_anything(proxy):
    for path in ("/", "/server_info", "/graphql", "/runs"):
        for wrong in ({}, basic(NAME, "wrong")):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                _get(proxy, path, wrong)
    assert " 401 " in _upgrade(proxy, {})
    assert "dagster_version" in json.loads(_get(proxy, "/server_info", basic(NAME, PASSWORD)))


def test_the_pages_work_through_it_and_what_a_run_tells_comes_in_while_it_runs(live, proxy):
    assert " 101 " in _upgrade(proxy, basic(NAME, PASSWORD))
    with browser(f"http://127.0.0.1:{proxy}", (NAME, PASSWORD)) as tab:
        # Subscriptions, and so the lines of a run that is under way, come over a WebSocket.
        received = []
        tab.page.on("websocket", lambda each: each.on("framereceived", lambda frame: received.append(frame)))
        run = live.launch(ACTIVATIONS)
        tab.open(f"/runs/{run}", "RUN_SUCCESS")
        assert any(run in str(frame) for frame in received)
        assert tab.foreign == []
    assert live.wait_for_run(run) == "SUCCESS"


def test_a_webserver_for_guests_shows_everything_and_launches_nothing(live, monkeypatch):
    monkeypatch.setattr(live, "port", live.start_read_only())
    with browser(live.url) as tab:
        tab.open(f"/assets/{ACTIVATIONS}", "tiny-llama")
        assert tab.page.get_by_role("button", name="Materialize").filter(visible=True).first.is_disabled()
    with pytest.raises(RuntimeError, match="UnauthorizedError"):
        live.launch(ACTIVATIONS)
    assert live.runs() == []


@contextmanager
def _running(nginx, folder, webserver):
    folder.mkdir()
    port = free_port()
    users = folder / "users"
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], check=True, capture_output=True, text=True)
    users.write_text(f"{NAME}:{hashed.stdout}")
    (lines,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    for said, here in (("/etc/nginx/sae-concord.users", str(users)), ("127.0.0.1:3000", f"127.0.0.1:{webserver}")):
        assert lines.count(said) == 1
        lines = lines.replace(said, here)
    kept = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; events {{}} http {{ access_log off; {kept} "
        f"server {{ listen 127.0.0.1:{port}; {lines} }} }}"
    )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([nginx, "-p", folder, "-c", "nginx.conf", "-e", "stderr"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def _get(port, path, headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


def _upgrade(port, headers):
    """The first line of the answer to the handshake of a WebSocket."""
    asked = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "graphql-ws",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
    with socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
        opened.sendall(f"GET /graphql HTTP/1.1\r\n{lines}\r\n".encode())
        return opened.recv(4096).split(b"\r\n")[0].decode()
