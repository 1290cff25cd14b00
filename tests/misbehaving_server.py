"""A real HTTP server on this machine that speaks OpenAI's chat protocol, well or badly."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Sent:
    """What the server sends back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    hangs_up: bool = False
    """Closes the connection without a word."""


@dataclass(frozen=True)
class Asked:
    """What came in."""

    path: str
    body: dict[str, Any]
    authorization: str | None

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


def say(text: str | None, finish_reason: str = "stop", usage: Any = (7, 3), **choice: Any) -> Sent:
    """A proper reply."""
    counted = {} if usage is None else {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}], **counted}
    return Sent(200, json.dumps(body).encode(), {"content-type": "application/json"})


def refuse(status: int, message: str = "no", **error: Any) -> Sent:
    """An error in the protocol's form; the SDK tries again after a millisecond where it does at all."""
    body = json.dumps({"error": {"message": message, **error}}).encode()
    return Sent(status, body, {"content-type": "application/json", "retry-after-ms": "1"})


class Server:
    """Requests as they came, and where they go."""

    def __init__(self, answer: Callable[[Asked], Sent]):
        self.answer, self.asked, self.most_at_once = answer, [], 0
        self._at_once, self._lock = 0, threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = Asked(self.path, body, self.headers["authorization"])
                with server._lock:
                    server.asked.append(asked)
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                sent = server.answer(asked)
                time.sleep(sent.after_s)
                with server._lock:
                    server._at_once -= 1
                if sent.hangs_up:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(sent.status)
                for name, value in {**sent.headers, "content-length": str(len(sent.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(sent.body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def __enter__(self) -> "Server":
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def one_after_another(*answers: Sent):
    """A server that gives these answers in turn, the last one for ever."""
    left = list(answers)
    lock = threading.Lock()

    def answer(_: Asked) -> Sent:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    with Server(answer) as server:
        yield server


def nobody() -> str:
    """Address of an endpoint that is down."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
