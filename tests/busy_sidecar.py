"""A sidecar that answers calls but, after the first few, no checks: `python tests/busy_sidecar.py PORT`.

A real one cannot be kept in this state for as long as the test needs: one that is busy enough to leave checks
unanswered sends no frames either.
"""

import asyncio
import json
import sys

CATALOG = {"groups": [{"name": "*", "mode": "chat", "deployments": [{"id": "one", "provider": "openai"}]}]}
FRAME = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
STREAM_S = 13


class Busy:
    """A sidecar of a few lines: whole when asked to be, deaf to checks after the first ones."""

    def __init__(self) -> None:
        self.checks = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    (line for line in head.lower().split("\r\n") if line.startswith("content-length")), ":0"
                )
                await reader.readexactly(int(length.partition(":")[2]))
                await self._answer(head.split()[1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/health/liveliness":
            self.checks += 1
            if self.checks > 3:
                await asyncio.sleep(60)
        if path != "/v1/chat/completions":
            body = json.dumps(CATALOG).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for at in range(STREAM_S * 2):
            self._frame(writer, {"index": 0, "delta": {"content": f"{at} "}, "finish_reason": None})
            await asyncio.sleep(0.5)
        self._frame(writer, {"index": 0, "delta": {}, "finish_reason": "stop"})
        done = b"data: [DONE]\n\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done))

    def _frame(self, writer: asyncio.StreamWriter, choice: dict[str, object]) -> None:
        data = b"data: " + json.dumps(FRAME | {"choices": [choice]}).encode() + b"\n\n"
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.start_server(Busy().serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
