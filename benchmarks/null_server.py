"""A server that costs next to nothing: every POST gets the same stream, at once.

``python benchmarks/null_server.py PORT_FILE INPUT_TOKENS OUTPUT_TOKENS WRITES GAP_S`` writes its
port to PORT_FILE. The events are spread over WRITES writes, GAP_S seconds apart, each in a turn of
the event loop of its own.
"""

import asyncio
import sys
from pathlib import Path

_END = b"\r\n\r\n"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
# As vLLM phrases them.
_TOKEN = (
    b'data: {"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion",'
    b'"created":1750000000,"model":"null","choices":[{"index":0,"text":" word","logprobs":null,'
    b'"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
)
_USAGE = (
    'data: {{"id":"cmpl-0","object":"text_completion","created":1750000000,"model":"null",'
    '"choices":[],"usage":{{"prompt_tokens":{},"total_tokens":{},"completion_tokens":{}}}}}\n\n'
)


def stream_parts(input_tokens: int, output_tokens: int, writes: int) -> list[bytes]:
    """Return the answer to a request, cut where one write ends and the next begins."""
    usage = _USAGE.format(input_tokens, input_tokens + output_tokens, output_tokens).encode()
    ends = [output_tokens * (part + 1) // writes for part in range(writes)]
    parts = [
        _chunk(_TOKEN) * (end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    parts[0] = _HEAD + parts[0]
    parts[-1] += _chunk(usage) + _chunk(b"data: [DONE]\n\n") + _chunk(b"")
    return parts


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


class _Connection(asyncio.Protocol):
    """Counts the bytes of a request and answers; nothing is parsed but its length."""

    def __init__(self, parts: list[bytes], gap_s: float) -> None:
        self._parts = parts
        self._gap_s = gap_s
        self._loop = asyncio.get_running_loop()
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(_END)
        if head < 0:
            return
        at = self._data.find(b"Content-Length: ", 0, head)
        length = 0 if at < 0 else int(self._data[at + 16 : self._data.index(b"\r\n", at)])
        if len(self._data) < head + len(_END) + length:
            return
        is_post = self._data.startswith(b"POST")
        self._data = b""
        if is_post:
            self._write(0)
        else:
            self._transport.write(_MISSING)

    def _write(self, part: int) -> None:
        self._transport.write(self._parts[part])
        if part + 1 < len(self._parts):
            self._loop.call_later(self._gap_s, self._write, part + 1)


def _tell(port_file: Path, port: int) -> None:
    port_file.write_text(str(port), encoding="utf-8")


async def _serve(port_file: Path, parts: list[bytes], gap_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: _Connection(parts, gap_s), "127.0.0.1", 0, backlog=4096
    )
    _tell(port_file, server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    parts = stream_parts(*map(int, sys.argv[2:5]))
    asyncio.run(_serve(Path(sys.argv[1]), parts, float(sys.argv[5])))
