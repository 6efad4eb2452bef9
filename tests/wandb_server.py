"""A server that answers as Weights & Biases's does, or refuses, fails or hangs, also from some moment on."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

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
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
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
        """What the server says to one request."""
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


class _Handler(BaseHTTPRequestHandler):
    server_state: WandbServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def _meet(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state = self.server_state
        if state.mode == "hang":
            state._release.wait()
            self.close_connection = True
            return
        status = {"answer": 200, "refuse": 401, "fail": 500}[state.mode]
        said = state.answer(self.path, body) if status == 200 else {"error": "no"}
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _meet
