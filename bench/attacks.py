"""Attacks as bytes: what strangers send to gateways of this kind, one named request each. Pure.

The families follow what was found in such gateways: SQL reached through a credential, a poisoned `Host`,
administrative and tool routes, requests that choose where the server connects, two readers of one request,
and inputs that cost much more to read than to send.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from raw_requests import BODY, CHAT, INNER, NOT_HTTP, TWO_READINGS, request

CANARY = "canary-of-the-attacker"
MODEL = "p/any"


@dataclass(frozen=True, slots=True)
class Attack:
    """One request.

    Attributes:
        expected: Statuses of the answer that are as they should be; 0 is a closed connection without one.
        passes: It is a good request all the same and may go on, as a request of our own.
    """

    family: str
    name: str
    raw: bytes
    expected: frozenset[int]
    passes: bool = False


def attacks() -> Iterator[Attack]:
    """All of them."""
    for many in (_sql, _hosts, _routes, _fields, _links, _headers, _framing, _costly, _paths):
        yield from many()


def _is(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


def _chat(**more: object) -> bytes:
    said = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": MODEL, "messages": said} | more).encode()


def _sql() -> Iterator[Attack]:
    family = "SQL in Authorization (CVE-2026-42208)"
    for text in (
        "' OR '1'='1",
        "sk-x' UNION SELECT token FROM api_keys--",
        "sk-x'; DROP TABLE requests;--",
        "sk-x' AND (SELECT pg_sleep(5))::text='1",
        'sk-x" OR ""="',
        "sk-\\'; SELECT 1",
        "sk-$1",
        "sk-%27%20OR%201=1",
    ):
        for header in ("Authorization: Bearer ", "x-api-key: "):
            auth = f"{header}{text}\r\n".encode()
            yield Attack(family, f"{header.split(':')[0]}: {text}", request(auth=auth), _is(401))


def _hosts() -> Iterator[Attack]:
    family = "Host poisoning (CVE-2026-48710, CVE-2026-49468)"
    for host in ("evil.example", "169.254.169.254", "localhost:4000", "127.0.0.1:1"):
        raw = request(host=f"Host: {host}\r\n".encode(), body=_chat())
        yield Attack(family, f"Host: {host}", raw, _is(200), passes=True)
    for host in ("evil.example/v1/models?", "a@evil.example", "evil.example#", "a/../b", "evil\\.example"):
        raw = request(host=f"Host: {host}\r\n".encode(), body=_chat())
        yield Attack(family, f"Host: {host}", raw, _is(400))
    raw = request(b"http://evil.example/v1/chat/completions", body=_chat())
    yield Attack(family, "a whole URL as the target", raw, _is(200, 400, 404), passes=True)
    more = f"X-Forwarded-Host: {CANARY}\r\nX-Forwarded-Proto: gopher\r\nForwarded: host={CANARY}\r\n".encode()
    yield Attack(family, "X-Forwarded-Host", request(more=more, body=_chat()), _is(200), passes=True)


def _routes() -> Iterator[Attack]:
    family = "MCP and configuration routes (CVE-2026-42271, -59822, -35029)"
    for path in (
        "/mcp", "/mcp/", "/mcp/tools/call", "/v1/mcp/server", "/mcp-rest/test/connection",
        "/mcp-rest/test/tools/list", "/mcp-rest/tools/call", "/config/update", "/config/yaml",
        "/get/config/callbacks", "/config/pass_through_endpoint", "/key/generate", "/key/info", "/user/new",
        "/model/new", "/model/update", "/model/info", "/v1/model/info", "/spend/logs", "/global/spend/report",
        "/cache/flushall", "/cache/redis/info", "/prompts/test", "/guardrails/apply_guardrail", "/ui/",
        "/sso/key/generate",
        "/openapi.json?x=1", "/routes", "/debug/asyncio-tasks", "/health/services", "/test", "/metrics/",
        "/llmp/catalog", "/v1/files", "/v1/batches", "/v1/responses", "/v1/realtime",
        "/anthropic/v1/messages", "/openai/v1/responses", "/vertex_ai/x", "/bedrock/x", "/a2a/x",
        "/vector_stores",
        "/rag/ingest",
    ):  # fmt: skip
        expected = _is(200, 401, 403, 404, 405)
        yield Attack(family, f"POST {path}", request(path.encode(), body=b"{}"), expected - _is(200))


def _fields() -> Iterator[Attack]:
    family = "SSRF by body fields"
    evil = f"http://{CANARY}.example"
    for name, value in (
        ("api_base", evil), ("base_url", evil), ("api_key", "sk-x"), ("custom_llm_provider", "openai"),
        ("model_list", [{"model_name": "x", "litellm_params": {"model": "openai/x", "api_base": evil}}]),
        ("user_config", {"model_list": []}), ("litellm_params", {"api_base": evil}), ("organization", "x"),
        ("fallbacks", [{"model": "x", "api_base": evil}]), ("headers", {"x": evil}),
        ("extra_headers", {"Host": evil}),
        ("proxy_server_request", {"url": evil}), ("aws_bedrock_runtime_endpoint", evil),
        ("azure_ad_token", "x"),
        ("langfuse_host", evil), ("callbacks", ["x"]), ("success_callback", ["x"]), ("mock_response", "x"),
        ("extra_body", {"api_base": evil}), ("metadata", {"api_base": evil}), ("guardrails", ["x"]),
        ("vertex_credentials", "/etc/passwd"), ("oidc_token", "oidc/file//etc/passwd"),
        ("hf_model_name", evil),
    ):  # fmt: skip
        yield Attack(
            family, f"field `{name}`", request(body=_chat(**{name: value})), _is(200, 400), passes=True
        )


def _links() -> Iterator[Attack]:
    family = "SSRF by links"
    for url in (
        "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:6379/", "http://2130706433/",
        "http://[::ffff:10.0.0.1]/", "http://metadata.google.internal/", "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL", "http://example.com@127.0.0.1/", "ht\ntp://169.254.169.254/",
        "http://\uff11\uff16\uff19.254.169.254/", "http://\u2460\u2461\u2466.0.0.1/", "http://127\u30020\u30020.1/",
        "http://[64:ff9b::7f00:1]/", "http://[::127.0.0.1]/", "http://vault.default.svc/",
    ):  # fmt: skip
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        body = _chat(messages=[{"role": "user", "content": parts}])
        yield Attack(family, f"image {url}", request(body=body), _is(400))
    tools = [{"type": "mcp", "server_url": "http://127.0.0.1:4000/mcp", "server_label": "x"}]
    yield Attack(family, "a tool server on this machine", request(body=_chat(tools=tools)), _is(400))


def _headers() -> Iterator[Attack]:
    family = "SSRF and steering by headers"
    for name in (
        "x-litellm-api-base", "api-base", "x-api-base", "x-openai-base-url", "x-litellm-model",
        "x-litellm-tags",
        "x-litellm-timeout", "x-litellm-num-retries", "x-litellm-enable-message-redaction", "x-mcp-servers",
        "x-mcp-auth", "anthropic-beta", "x-pass-authorization", "litellm-changed-by", "x-original-url",
        "x-rewrite-url", "x-http-method-override", "x-litellm-call-id", "langfuse_trace_id", "cookie",
    ):  # fmt: skip
        raw = request(more=f"{name}: {CANARY}\r\n".encode(), body=_chat())
        yield Attack(family, name, raw, _is(200), passes=True)


def _framing() -> Iterator[Attack]:
    family = "Request smuggling"
    for found in (*NOT_HTTP, *TWO_READINGS):
        raw = cast("bytes", found.values[0])
        yield Attack(family, str(found.id), raw + INNER, _is(400, 431, 0))
    for expected in ("100-continue, x", "100-continue;q=1", "200-ok", "100-continue\r\nExpect: x"):
        raw = request(more=f"Expect: {expected}\r\n".encode(), auth=b"", body=INNER)
        yield Attack(family, f"Expect: {expected!r}", raw + INNER, _is(417))


def _costly() -> Iterator[Attack]:
    family = "Inputs that cost more to read than to send"
    packed = b"Content-Encoding: gzip\r\n"
    bomb = gzip.compress(b"\0" * 200 * 2**20, 9)
    deep = b"[" * 200_000 + b"]" * 200_000
    wide = b"{" + b",".join(b'"k%d":1' % at for at in range(300_000)) + b"}"
    many = _chat(messages=[{"role": "user", "content": "x"}] * 100_000)
    twice = gzip.compress(gzip.compress(_chat()))
    for name, raw, expected in (
        ("a gzip bomb, 200 kB for 200 MB", request(more=packed, body=bomb), _is(413)),
        ("a gzip bomb in a gzip bomb", request(more=packed, body=gzip.compress(bomb)), _is(400, 413)),
        ("packed twice", request(more=b"Content-Encoding: gzip, gzip\r\n", body=twice), _is(400, 415)),
        ("JSON 200,000 deep", request(body=deep), _is(400)),
        ("messages 10,000 deep", request(body=b'{"messages":' * 10_000 + b"1" + b"}" * 10_000), _is(400)),
        ("300,000 unknown fields", request(body=wide), _is(400)),
        ("100,000 messages", request(body=many), _is(400)),
        ("a number of a million digits", request(body=b'{"model":' + b"9" * 10**6 + b"}"), _is(400)),
        ("one field 30,000 times", request(body=b"{" + b'"a":1,' * 30_000 + b'"a":1}'), _is(400)),
        ("lone surrogates and NULs", request(body=b'{"model":"\\ud800\\u0000","messages":[]}'), _is(400)),
        ("a length of 10 GB", request(more=b"Content-Length: 10000000000\r\n", length=False), _is(413)),
        ("a thousand headers", request(more=b"".join(b"X-%d: y\r\n" % at for at in range(5000))), _is(431)),
        ("a header of 200 kB", request(more=b"X-A: " + b"a" * 200_000 + b"\r\n"), _is(431, 400)),
        (
            "a credential of 30 kB",
            request(auth=b"Authorization: Bearer " + b"a" * 30_000 + b"\r\n"),
            _is(401),
        ),
    ):
        yield Attack(family, name, raw, expected)


def _paths() -> Iterator[Attack]:
    family = "Path tricks"
    for path in (
        "//v1/chat/completions", "/v1/../config/update", "/v1/%2e%2e/config/update", "/v1/chat/completions/",
        "/v1%2fchat%2fcompletions", "/v1/chat/completions;/config/update", "/V1/CHAT/COMPLETIONS",
        "/v1/models/..%2f..%2fconfig", "/./v1/chat/completions", "/v1/chat/completions%00",
    ):  # fmt: skip
        yield Attack(family, path, request(path.encode(), body=BODY), _is(400, 404, 405))
    for path in ("/%61dmin/keys", "/admin/%6beys", "/admin%2fkeys", "/%76%31/models"):
        yield Attack(family, path, request(path.encode(), method=b"GET", body=b""), _is(404))
    yield Attack(family, "GET on a door that takes POST", request(CHAT, method=b"GET"), _is(405))
