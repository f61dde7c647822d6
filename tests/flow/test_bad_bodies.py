"""Invalid bodies: each is rejected with a message that names the fault, and no provider is called."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
from endpoint_errors import CHAT, INFERENCE_PATHS, OTHER_PATHS, TEXT, VECTORS, error_of
from loopback import NO_TLS
from raw_http import send_raw
from raw_requests import request
from running_stack import Json, RunningStack, say

MAX_BYTES = 20 * 2**20
GOOD = json.dumps({"model": "p/ok", "messages": say("a body")}).encode()
JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """Returns an HTTP client with a valid key."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=stack.auth, timeout=20) as one:
        yield one


@pytest.fixture
async def no_provider_called(stack: RunningStack) -> AsyncIterator[None]:
    """Checks afterwards that no provider was called."""
    yield
    assert await stack.calls() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", "invalid_json", id="empty"),
        pytest.param(b"{", "invalid_json", id="half"),
        pytest.param(b"{'model': 'x'}", "invalid_json", id="single quotes"),
        pytest.param(GOOD[:-1], "invalid_json", id="cut"),
        pytest.param(GOOD + b"}", "invalid_json", id="one brace more"),
        pytest.param(GOOD + b"\0", "invalid_json", id="NUL after the end"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, "invalid_json", id="byte order mark"),
        pytest.param(GOOD.decode().encode("utf-16"), "invalid_json", id="UTF-16"),
        pytest.param(b'{"model": "\xff\xfe"}', "invalid_json", id="not UTF-8"),
        pytest.param(b'{"model": "\\ud800"}', "invalid_json", id="lone surrogate"),
        pytest.param(b'{"temperature": NaN}', "invalid_json", id="NaN"),
        pytest.param(b'{"temperature": Infinity}', "invalid_json", id="Infinity"),
        pytest.param(b'{"seed": 1e999}', "invalid_json", id="beyond a double"),
        pytest.param(b"model=p%2Fok", "invalid_json", id="a form"),
        pytest.param(b"[]", "invalid_type", id="array"),
        pytest.param(b"null", "invalid_type", id="null"),
        pytest.param(b'"text"', "invalid_type", id="string"),
        pytest.param(b"42", "invalid_type", id="number"),
        pytest.param(b'{"model": "a", "model": "b"}', "duplicate_parameter", id="a name twice"),
        pytest.param(
            b'{"model": "a", "mod\\u0065l": "b"}', "duplicate_parameter", id="a name twice, escaped"
        ),
        pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, "json_too_deep", id="deep objects"),
        pytest.param(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "json_too_deep", id="deep arrays"),
        pytest.param(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, id="very deep arrays"),
        pytest.param(b"[" * 1_000_000, "json_too_many_values", id="a million brackets"),
        pytest.param(b'{"a":[' + b"[]," * 200_000 + b"[]]}", "json_too_many_values", id="many arrays"),
    ],
)
@pytest.mark.usefixtures("no_provider_called")
async def test_what_is_no_plain_json_object_is_400(
    client: httpx.AsyncClient, body: bytes, code: str | None
) -> None:
    """On every inference route, in its dialect's error shape."""
    for door in (*INFERENCE_PATHS, *OTHER_PATHS):
        response = await client.post(door, content=body, headers=JSON_TYPE)
        assert response.status_code == 400
        assert error_of(response)["code"] in ({code} if code else {"invalid_json", "json_too_deep"})


async def test_a_nul_in_a_text_reaches_the_provider(stack: RunningStack, client: httpx.AsyncClient) -> None:
    """On every route, in prompts and names; no model has such a name."""
    text = "ELF\0binary"
    for door in INFERENCE_PATHS:
        said: Json = {TEXT: {"prompt": text}, VECTORS: {"input": text}}.get(door, {"messages": say(text)})
        asked = {"model": "p/ok", "user": "u\0", **said}
        response = await client.post(door, json=asked)
        assert response.status_code == 200, (door, response.text)
        assert json.dumps(text)[1:-1] in json.dumps((await stack.calls())[-1]["body"])
        response = await client.post(door, json=asked | {"model": "p/\0"})
        assert response.status_code == 404


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/xml",
        "json",
    ],
)
@pytest.mark.usefixtures("no_provider_called")
async def test_another_content_type_is_415(client: httpx.AsyncClient, kind: str) -> None:
    """Whatever the body holds."""
    response = await client.post(CHAT, content=GOOD, headers={"Content-Type": kind})
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON"},
        {"Content-Type": ""},
    ],
)
async def test_json_media_types_are_accepted(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """With a charset, in capitals, or without any type."""
    kind = headers or {"Content-Type": "application/json"}
    request = client.build_request("POST", CHAT, content=GOOD, headers=kind)
    if not headers:
        del request.headers["Content-Type"]
    response = await client.send(request)
    assert response.status_code == (200 if headers.get("Content-Type") != "" else 415)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


BOMB = gzip.compress(b" " * (MAX_BYTES * 10), 9)


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code"),
    [
        pytest.param("gzip", BOMB, 413, "request_too_large", id="bomb"),
        pytest.param(
            "deflate", zlib.compress(b" " * (MAX_BYTES * 10), 9), 413, "request_too_large", id="other bomb"
        ),
        pytest.param("gzip", gzip.compress(BOMB), 400, "invalid_json", id="bomb in a bomb"),
        pytest.param(
            "gzip", gzip.compress(gzip.compress(GOOD)), 400, "invalid_json", id="packed twice, said once"
        ),
        pytest.param(
            "gzip, gzip", gzip.compress(gzip.compress(GOOD)), 415, "unsupported_media_type", id="packed twice"
        ),
        pytest.param("gzip", gzip.compress(GOOD)[:-9], 400, None, id="cut"),
        pytest.param("gzip", gzip.compress(GOOD)[:10], 400, None, id="only a head"),
        pytest.param("gzip", gzip.compress(GOOD) + GOOD, 400, None, id="more after the end"),
        pytest.param("gzip", gzip.compress(GOOD) * 2, 400, None, id="two streams"),
        pytest.param("gzip", gzip.compress(GOOD)[:-8] + b"\0" * 8, 400, None, id="a wrong checksum"),
        pytest.param("gzip", GOOD, 400, None, id="not packed"),
        pytest.param("gzip", b"", 400, None, id="nothing"),
        pytest.param("deflate", gzip.compress(GOOD), 400, None, id="packed otherwise"),
        pytest.param("deflate", _raw_deflate(GOOD), 400, None, id="deflate without its frame"),
        pytest.param("br", GOOD, 415, "unsupported_media_type", id="brotli"),
        pytest.param("zstd", GOOD, 415, "unsupported_media_type", id="zstandard"),
        pytest.param("chunked", GOOD, 415, "unsupported_media_type", id="chunked"),
    ],
)
@pytest.mark.usefixtures("no_provider_called")
async def test_an_invalid_compressed_body_is_rejected(
    client: httpx.AsyncClient, encoding: str, body: bytes, status: int, code: str | None
) -> None:
    """Bombs are stopped at the bound, others by their fault."""
    response = await client.post(CHAT, content=body, headers={**JSON_TYPE, "Content-Encoding": encoding})
    assert response.status_code == status
    assert error_of(response)["code"] == code


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(GOOD)),
        ("x-gzip", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
        ("identity", GOOD),
    ],
    ids=["gzip", "x-gzip", "deflate", "identity"],  # the bytes of gzip hold the time
)
async def test_a_compressed_body_is_read(
    stack: RunningStack, client: httpx.AsyncClient, encoding: str, body: bytes
) -> None:
    """Gzip or deflate, as HTTP clients send."""
    response = await client.post(
        CHAT, content=body, headers={**JSON_TYPE, "Content-Encoding": encoding, "Cache-Control": "no-cache"}
    )
    assert response.status_code == 200
    assert [call["body"]["messages"] for call in await stack.calls()] == [say("a body")]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.usefixtures("no_provider_called")
async def test_a_body_larger_than_allowed_is_413(client: httpx.AsyncClient, said: bool) -> None:  # noqa: FBT001 -- a parameter
    """Announced, or found while it is read."""
    piece = b" " * 2**20

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BYTES // len(piece) + 2):
            yield piece

    length = {"Content-Length": str(len(piece) * (MAX_BYTES // len(piece) + 2))} if said else {}
    response = await client.post(CHAT, content=pieces(), headers={**JSON_TYPE, **length})
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


@pytest.mark.usefixtures("no_provider_called")
async def test_a_body_that_does_not_come_is_408(stack: RunningStack) -> None:
    """Every route waits as long as its setting, then closes the connection."""
    length = b"Content-Length: 100\r\n"
    slow = [
        request(door.encode(), length, length=False, body=GOOD[:10])
        for door in (*INFERENCE_PATHS, *OTHER_PATHS)
    ]
    reported = await asyncio.gather(
        *(asyncio.to_thread(send_raw, stack.port, raw, wait_s=10) for raw in slow)
    )
    for said in reported:
        assert said.statuses == [408]
        assert b'"code":"request_timeout"' in said.body
        assert said.closed


@pytest.mark.usefixtures("no_provider_called")
async def test_a_disconnect_within_the_body_leaves_nothing(stack: RunningStack) -> None:
    """No call: no response, no record, nothing in flight."""
    half = request(b"/v1/chat/completions", b"Content-Length: 5000\r\n", length=False)

    async def counted() -> tuple[str, ...]:
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            admin = {"Authorization": f"Bearer {stack.admin_key}"}
            reported = (await client.get(f"{stack.url}/metrics", headers=admin)).text.splitlines()
        return tuple(line for line in reported if line.startswith("llm_proxy_requests_total"))

    before = await counted()
    for _ in range(3):
        said = await asyncio.to_thread(send_raw, stack.port, half, wait_s=0.2)
        assert said.statuses == []
    assert await counted() == before
