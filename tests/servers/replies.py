"""An OpenAI-compatible endpoint that answers sums with a number and all else with a refusal."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOIN_LIMIT_S = 10.0


@contextlib.contextmanager
def replying(*, is_broken: bool = False, authorization: str = "") -> Iterator[str]:
    """Serve the model ``served`` on a loopback port and yield the base URL.

    A broken one replies with errors of status 200; with an ``authorization``, 401 is the answer to
    whoever does not send this header.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Completions)
    server.is_broken = is_broken  # type: ignore[attr-defined]
    server.authorization = authorization  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join(JOIN_LIMIT_S)
        server.server_close()


class _Completions(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self._is_refused():
            return
        self._send({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        if self._is_refused():
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "served"
        assert body["temperature"] == 0
        assert body["seed"] == 1234
        if self.server.is_broken:  # type: ignore[attr-defined]
            self._send({"error": {"message": "the engine is dead"}})
            return
        if self.path == "/v1/chat/completions":
            answer = {"role": "assistant", "content": _reply(body["messages"][-1]["content"])}
            self._send({"choices": [{"index": 0, "message": answer}]})
            return
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [{"index": i, "text": _reply(prompt)} for i, prompt in enumerate(prompts)]
        self._send({"choices": choices})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _is_refused(self) -> bool:
        wanted = self.server.authorization  # type: ignore[attr-defined]
        if not wanted or self.headers["Authorization"] == wanted:
            return False
        self._send({"error": {"message": "unauthorized"}}, status=401)
        return True

    def _send(self, content: dict[str, Any], *, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _reply(prompt: str) -> str:
    return " 2 and 2 make 4. The answer is 4." if "2+2" in prompt else " Sorry, I can't."
