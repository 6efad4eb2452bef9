"""A server that answers as Weights & Biases's does, or refuses, fails or hangs, also from some moment on."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import Callback

from kinetic.training.weights_and_biases import service_process

Mode = Literal["answer", "refuse", "fail", "hang"]
KEY = "0123456789abcdef0123456789abcdef01234567"

RUN = {
    "id": "run-node",
    "name": "run",
    "displayName": "run",
    "description": None,
    "config": "{}",
    "sweepName": None,
    "historyLineCount": 0,
    "project": {"id": "project-node", "name": "kinetic", "entity": {"id": "entity-node", "name": "tester"}},
}
ANSWERS: dict[str, Any] = {
    "Viewer": {"viewer": {"id": "viewer", "entity": "tester", "username": "tester", "email": "", "flags": "{}"}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "RunResumeStatus": {"model": None},
}


class WandbServer:
    """Serves on a free local port while it is entered; `mode` may be changed at any time.

    Attributes:
        mode: how requests are met: answered, refused (401), failed (500), or left without an answer.
        operations: names of the GraphQL operations that were answered, in their order.
        history: rows of numbers that runs have uploaded.
        finished: whether a run has been told to be complete.
    """

    def __init__(self, mode: Mode = "answer") -> None:
        self.mode: Mode = mode
        self.operations: list[str] = []
        self.history: list[dict[str, Any]] = []
        self.upserts: list[dict[str, Any]] = []
        self.finished = False
        self._release = threading.Event()
        handler = type("Handler", (_Handler,), {"server_state": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """What the server says to one request; `/switch/MODE` is not W&B's, and changes the mode."""
        if path.startswith("/graphql"):
            return self._graphql(json.loads(body))
        if path.endswith("/file_stream"):
            self._stream(json.loads(body))
        return {}

    def _graphql(self, asked: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        name = found[1] if found else ""
        variables = asked.get("variables") or {}
        self.operations.append(name)
        if name == "UpsertBucket":
            self.upserts.append(variables)
            run = {**RUN, "name": variables.get("name"), "displayName": variables.get("displayName")}
            return {"data": {"upsertBucket": {"bucket": run, "inserted": True}}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/storage/{file}"} for file in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "run-node", "uploadHeaders": [], "files": files}}}
        return {"data": ANSWERS.get(name, {})}

    def _stream(self, sent: dict[str, Any]) -> None:
        files = sent.get("files") or {}
        self.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        self.finished = self.finished or bool(sent.get("complete"))


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Clients may leave when they like."""


class _Handler(BaseHTTPRequestHandler):
    server_state: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _meet(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state = self.server_state
        if self.path.startswith("/switch/"):
            state.mode = self.path.removeprefix("/switch/")
            self._say(200, {})
            return
        if state.mode == "hang":
            state._release.wait()
            self.close_connection = True
            return
        status = {"answer": 200, "refuse": 401, "fail": 500}[state.mode]
        self._say(status, state.answer(self.path, body) if status == 200 else {"error": "no"})

    def _say(self, status: int, said: dict[str, Any]) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _meet


class Fault(Callback):
    """Breaks W&B after a training step (see break_wandb)."""

    def __init__(self, what: str, at: int = 4, seconds: float = 1.0) -> None:
        self.what, self.at, self.seconds = what, at, seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.at:
            break_wandb(self.what, Path(trainer.default_root_dir), self.seconds)


def break_wandb(what: str, folder: Path, seconds: float) -> None:
    """Break W&B, and give it some seconds to notice.

    `what` is a mode that the server shall go on in; "kill" or "stop" for the service process, some seconds after what
    was logged before; "fill" for the disk that W&B's files are on.
    """
    if what in ("kill", "stop"):
        time.sleep(seconds)
        os.kill(service_process().pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    elif what == "fill":
        _fill(folder / "wandb" / "ballast")
    else:
        urllib.request.urlopen(f"{os.environ['WANDB_BASE_URL']}/switch/{what}", timeout=5).close()
    time.sleep(seconds)


def _fill(path: Path) -> None:
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
