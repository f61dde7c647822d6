"""A sidecar that answers as no server should: `python tests/hostile_sidecar.py PORT`.

The last message of a call names the answer (`ANSWERS`); any other text is answered with itself. No real
sidecar, and none behind a real provider, sends these bytes.
"""

import asyncio
import json
import sys
from collections.abc import Iterator

CATALOG = {"groups": [{"name": "*", "mode": "chat", "deployments": [{"id": "one", "provider": "openai"}]}]}
STOLEN = "stolen-from-another-caller"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
USAGE = '{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}'


def completion(text: str, usage: str = USAGE) -> bytes:
    """A whole chat completion that says `text`; `usage` is JSON as it is written."""
    message = json.dumps({"role": "assistant", "content": text})
    choice = f'{{"index":0,"finish_reason":"stop","message":{message}}}'
    return (
        f'{{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{choice}],"usage":{usage}}}'
    ).encode()


def sized(body: bytes, more: bytes = b"", start: bytes = OK) -> bytes:
    """An answer with a length."""
    return start + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunks(body: bytes, more: bytes = b"", trailers: bytes = b"", extension: bytes = b"") -> bytes:
    """An answer in one chunk."""
    head = OK + more + b"Transfer-Encoding: chunked\r\n\r\n%x" % len(body)
    return head + extension + b"\r\n" + body + b"\r\n0\r\n" + trailers + b"\r\n"


GOOD = sized(completion("good"))
ERROR = b'{"error":{"message":"no","type":"x","code":"429"}}'
SECOND = sized(completion(STOLEN))
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\n"
LONG = b"9" * 5000
GARBAGE = b"a" * 2**16
ODD = (
    b"nan", b"-nan", b"inf", b"-inf", b"-1", b"1e308", b"1e400", b"1e999999", LONG, b"\xb2", b"\xff",
    b"99999999999", b"1_0", b"0x10", b"",
)  # fmt: skip

WHOLE: dict[str, bytes] = {
    "another answer behind it": GOOD + SECOND,
    "garbage behind it": GOOD + b"\0\1\2garbage",
    "another answer behind chunks": chunks(completion("good")) + SECOND,
    "an interim answer behind it": GOOD + b"HTTP/1.1 100 Continue\r\n\r\n",
    "a trailer that bills": chunks(completion("good"), trailers=b"x-litellm-response-cost: 777\r\n"),
    "a trailer that says who": chunks(completion("good"), trailers=b"x-litellm-model-group: other\r\n"),
    "a trailer that closes": chunks(completion("good"), trailers=b"Connection: close\r\n"),
    "early hints": b"HTTP/1.1 103 Early Hints\r\nx-litellm-response-cost: 777\r\n\r\n" + GOOD,
    "HTTP/1.0": GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "an end with the connection": OK + b"Connection: close\r\n\r\n" + completion("good"),
    "upgrade offered": sized(completion("good"), b"Upgrade: h2c\r\nConnection: upgrade\r\n"),
}
"""Good answers, with something about them that must have no effect."""
FRAMES = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"good"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
STREAMS: dict[str, bytes] = {
    "another answer behind a stream": chunks(FRAMES) + SECOND,
    "garbage behind a stream": chunks(FRAMES) + b"data: " + STOLEN.encode() + b"\n\n",
    "frames behind a stream with a length": sized(FRAMES) + b"data: " + STOLEN.encode() + b"\n\n",
    "a stream with a trailer": chunks(FRAMES, trailers=b"Connection: close\r\nX-A: b\r\n"),
}
"""Whole streams, with something behind them."""
ZEROS = '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}'
_LAST = f'data: {{"id":"x","object":"chat.completion.chunk","choices":[],"usage":{ZEROS}}}\n\n'.encode()
_ZERO_FRAMES = FRAMES.replace(b"data: [DONE]", _LAST + b"data: [DONE]")
UNCOUNTED: dict[str, tuple[bytes, bool]] = {
    "zeros, whole": (sized(completion("good", ZEROS)), False),
    "zeros in a stream": (chunks(_ZERO_FRAMES), True),
}
"""Answers of an unmodified LiteLLM whose provider stated no usage, and whether they are streams."""
NUMBERS: dict[str, bytes] = {
    f"usage {value.decode()[:12]}": sized(
        completion("good", '{"prompt_tokens":%s,"completion_tokens":%s,"cost":%s}' % ((value.decode(),) * 3))
    )
    for value in (b"-1", b"1e30", b"9" * 30, b"1.5", b"true", b'"7"', b"null", b"[]", b"9007199254740993")
} | {
    f"header {name.decode()}: {value.decode('latin-1')[:12]}": sized(
        completion("good"), name + b": " + value + b"\r\n"
    )
    for name in (b"x-litellm-response-cost", b"x-llmp-attempts", b"x-litellm-attempted-retries",
                 b"x-litellm-overhead-duration-ms")
    for value in ODD
}  # fmt: skip
"""Good answers whose numbers are none, or none that a call can have."""
ERRORS: dict[str, bytes] = {
    f"error with {name.decode()}: {value.decode('latin-1')[:12]}": sized(
        ERROR, name + b": " + value + b"\r\n", TOO_MANY
    )
    for name in (b"retry-after", b"x-llmp-retry-after", b"x-llmp-provider-status", b"x-llmp-attempts")
    for value in ODD
} | {
    f"error that says {text[:12]}": sized(
        json.dumps({"error": {"message": f"Try again in {text} s", "code": text}}).encode(), b"", TOO_MANY
    )
    for text in ("999999999 h 999999999 h", "9" * 400, "\u00b2", "\u0663", "-1", "nan")
}  # fmt: skip
BROKEN: dict[str, bytes] = {
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + GOOD,
    "101 alone": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + GOOD,
    "status 000": sized(b"{}", start=b"HTTP/1.1 000 Nothing\r\n"),
    "status 099": sized(b"{}", start=b"HTTP/1.1 099 Little\r\n"),
    "status 999": sized(b"{}", start=b"HTTP/1.1 999 Much\r\n"),
    "status 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "status 302": sized(b"", b"Location: http://127.0.0.1/\r\n", b"HTTP/1.1 302 Found\r\n"),
    "no HTTP": b"SSH-2.0-x\r\n",
    "usage beyond any number": sized(completion("good", '{"prompt_tokens":1e400}')),
    "length and chunks": chunks(completion("good"), b"Content-Length: 5\r\n"),
    "two lengths": sized(completion("good"), b"Content-Length: 5\r\n"),
    "length below zero": OK + b"Content-Length: -5\r\n\r\n" + completion("good"),
    "shorter than it says": OK + b"Content-Length: 50000\r\nConnection: close\r\n\r\n" + completion("good"),
    "folded header": sized(completion("good"), b"X-A: b\r\n c\r\n"),
    "NUL in a header": sized(completion("good"), b"X-A: b\0c\r\n"),
    "no chunk": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no JSON": sized(b"<html>"),
    "nothing": sized(b""),
    "null": sized(b"null"),
    "a list": sized(b"[]"),
    "deep": sized(b"[" * 100_000 + b"]" * 100_000),
    "NaN": sized(b'{"choices":NaN}'),
    "no UTF-8": sized(b'{"choices":"\xff\xfe"}'),
}
"""Answers that are none: 502, whatever is left of them."""
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a head without an end": (OK, b"X-A: " + GARBAGE + b"\r\n"),
    "a header without an end": (OK + b"X-A: ", GARBAGE),
    "interim answers without an end": (b"", b"HTTP/1.1 102 Processing\r\nX-A: " + b"a" * 999 + b"\r\n\r\n"),
    "a chunk's extension without an end": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", GARBAGE),
    "trailers without an end": (chunks(completion("good"))[:-2], b"X-A: " + GARBAGE + b"\r\n"),
    "a body without an end": (OK + b"\r\n", GARBAGE),
    "chunks without an end": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + GARBAGE + b"\r\n"),
    "a length without an end": (OK + b"Content-Length: 99999999999\r\n\r\n", GARBAGE),
}
"""What begins an answer, and what follows for ever."""
ANSWERS = WHOLE | STREAMS | {name: raw for name, (raw, _) in UNCOUNTED.items()} | NUMBERS | ERRORS | BROKEN


def answers(name: str) -> Iterator[bytes]:
    """The bytes of an answer."""
    if name in ENDLESS:
        start, more = ENDLESS[name]
        yield start
        while True:
            yield more
    yield ANSWERS.get(name) or sized(completion(name))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one connection's requests; an answer that says so closes it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            named = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(named.get("content-length", "0")))
            name = json.loads(body)["messages"][-1]["content"] if body else ""
            for part in answers(name) if body else (sized(json.dumps(CATALOG).encode()),):
                writer.write(part)
                await writer.drain()
                if b"Connection: close" in part or b"HTTP/1.0" in part:
                    writer.close()
                    return
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    """Listen until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
