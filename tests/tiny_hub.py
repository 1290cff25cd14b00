"""A Hugging Face hub on this machine: enough of its API that the real client lists and downloads one repository."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/saes"


@contextmanager
def serving(folder: Path, revisions=("main", "v1", COMMIT)) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as the repository ``REPO``; gives the address, and the files that were downloaded so far."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    downloaded: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            path = unquote(urlsplit(self.path).path).strip("/")
            if path.startswith("api/models/"):
                return self._api(path.removeprefix("api/models/"))
            return self._file(path)

        do_HEAD = do_GET

        def _api(self, path):
            if not path.startswith(REPO):
                return self._answer(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            kind, _, revision = path.removeprefix(REPO).strip("/").partition("/")
            revision = revision or "main"
            if revision not in revisions:
                return self._answer(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)} for name, data in files.items()
            ]
            info = {"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self._answer(200, {}, json.dumps(entries if kind == "tree" else info).encode())

        def _file(self, path):
            name = path.removeprefix(f"{REPO}/resolve/{COMMIT}/")
            if name not in files:
                return self._answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
            if self.command == "GET":
                downloaded.append(name)
            return self._answer(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(files[name])}"'}, files[name])

        def _answer(self, status, headers, body):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloaded
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
