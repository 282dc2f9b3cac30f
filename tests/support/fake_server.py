"""An HTTP server on this machine that answers chat completions, or fails in whichever way a test asks for."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FakeServer", "completion", "fake_server", "json_answer"]


def completion(content: object = "up", reason: object = "stop", **message: object) -> dict[str, Any]:
    """A chat completion."""
    return {
        "object": "chat.completion",
        "model": "toy",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": reason,
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }


def json_answer(
    answer: object, status: int = 200, **headers: str
) -> Callable[[Handler, dict[str, Any]], None]:
    """A behaviour: answer with this."""
    return lambda handler, _: handler.answer(status, json.dumps(answer).encode(), headers)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: FakeServer

    def do_GET(self) -> None:
        self.server.gets.append(self.path)
        answer = self.server.pages.get(self.path)
        status = self.server.page_status if answer is None else 200
        self.answer(status, json.dumps(answer or {"detail": "Not Found"}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request = json.loads(body)
        with self.server.lock:
            self.server.posts.append(request)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            behaviours = self.server.behaviours
            behaviour = behaviours.pop(0) if behaviours else self.server.otherwise
        behaviour(self, request)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer properly."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


class FakeServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        behaviours: What the next requests get, in order.
        otherwise: What all others get.
        pages: What addresses answer to GET.
        page_status: The status of those that are no page.
        posts: The requests' bodies.
        headers: Their headers, with small letters.
        gets: The addresses that were got.
        stopping: Set when the test is over; behaviours that hang wait for it.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behaviours: list[Callable[[Handler, dict[str, Any]], None]] = []
        self.otherwise: Callable[[Handler, dict[str, Any]], None] = json_answer(completion())
        self.page_status = 404
        self.pages: dict[str, Any] = {"/v1/models": {"data": [{"id": "toy", "root": "/weights/toy"}]}}
        self.posts: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gets: list[str] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address that agents are given."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that went away are nothing to report."""


@contextlib.contextmanager
def fake_server(port: int = 0) -> Iterator[FakeServer]:
    """A server that runs until the context ends."""
    server = FakeServer(port)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
