"""What strangers send to gateways of this kind, as bytes: one named request each.

The families follow what was found in such gateways: SQL reached through a credential, a poisoned `Host`,
administrative and tool routes, requests that choose where the server connects, two readings of one request,
and inputs that cost much more to read than to send.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from attack_forms import forms
from raw_requests import CHAT, INNER, NOT_HTTP, TWO_READINGS, request

from llm_proxy.endpoints import ENDPOINTS

CANARY = "canary-of-the-attacker"
EVIL = f"http://{CANARY}.example"
MODEL = "p/any"


@dataclass(frozen=True, slots=True)
class Attack:
    """One request.

    Attributes:
        expected: The statuses of the answer that are right; 0 is a closed connection without one.
        passes: It is a good request all the same and may reach the sidecar, as a request of our own.
    """

    family: str
    name: str
    raw: bytes
    expected: frozenset[int]
    passes: bool = False


def attacks() -> Iterator[Attack]:
    """All of them."""
    yield from (Attack("SQL in Authorization (CVE-2026-42208)", *one, frozenset({401})) for one in _sql())
    yield from _hosts()
    routes = "MCP and configuration routes (CVE-2026-42271, -59822, -35029)"
    for path in ROUTES:
        raw = request(path.encode(), body=b"{}")
        yield Attack(routes, f"POST {path}", raw, frozenset({401, 403, 404, 405}))
    for name, value in FIELDS:
        raw = request(body=_chat(**{name: value}))
        yield Attack("SSRF by body fields", f"field `{name}`", raw, frozenset({200, 400}), passes=True)
    yield from (Attack("SSRF by links", *one, frozenset({400})) for one in _links())
    for name in HEADERS:
        raw = request(more=f"{name}: {CANARY}\r\n".encode(), body=_chat())
        yield Attack("SSRF and steering by headers", name, raw, frozenset({200}), passes=True)
    yield from _framing()
    for name, raw, expected in _costly():
        yield Attack("Inputs that cost more to read than to send", name, raw, frozenset(expected))
    for endpoint in ENDPOINTS.values():
        if endpoint.files:
            at = endpoint.path
            for name, raw, statuses, passes in forms(at.encode(), endpoint.files[0].name.encode()):
                yield Attack(f"Forms at {at}", name, raw, statuses, passes)
    for path in PATHS:
        yield Attack("Path tricks", path, request(path.encode()), frozenset({400, 404, 405}))
    for path in ADMIN_PATHS:
        raw = request(path.encode(), method=b"GET", body=b"")
        yield Attack("Path tricks", path, raw, frozenset({404}))
    raw = request(CHAT + b"/", body=_chat())
    yield Attack("Path tricks", "a slash at the end", raw, frozenset({200}), passes=True)
    yield Attack("Path tricks", "GET where POST is taken", request(CHAT, method=b"GET"), frozenset({405}))


def _chat(**more: object) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": MODEL, "messages": messages} | more).encode()


def _sql() -> Iterator[tuple[str, bytes]]:
    for text in (
        "' OR '1'='1", "sk-x' UNION SELECT token FROM api_keys--", "sk-x'; DROP TABLE requests;--",
        "sk-x' AND (SELECT pg_sleep(5))::text='1", 'sk-x" OR ""="', "sk-\\'; SELECT 1", "sk-$1",
        "sk-%27%20OR%201=1",
    ):  # fmt: skip
        for header in ("Authorization: Bearer ", "x-api-key: "):
            yield f"{header.split(':')[0]}: {text}", request(auth=f"{header}{text}\r\n".encode())


def _hosts() -> Iterator[Attack]:
    family = "Host poisoning (CVE-2026-48710, CVE-2026-49468)"
    for host in ("evil.example", "169.254.169.254", "localhost:4000", "127.0.0.1:1"):
        raw = request(host=f"Host: {host}\r\n".encode(), body=_chat())
        yield Attack(family, f"Host: {host}", raw, frozenset({200}), passes=True)
    for host in ("evil.example/v1/models?", "a@evil.example", "evil.example#", "a/../b", "evil\\.example"):
        raw = request(host=f"Host: {host}\r\n".encode(), body=_chat())
        yield Attack(family, f"Host: {host}", raw, frozenset({400}))
    raw = request(b"http://evil.example/v1/chat/completions", body=_chat())
    yield Attack(family, "a whole URL as the target", raw, frozenset({200, 400, 404}), passes=True)
    more = f"X-Forwarded-Host: {CANARY}\r\nX-Forwarded-Proto: gopher\r\nForwarded: host={CANARY}\r\n".encode()
    yield Attack(family, "X-Forwarded-Host", request(more=more, body=_chat()), frozenset({200}), passes=True)


ROUTES = (
    "/mcp", "/mcp/", "/mcp/tools/call", "/v1/mcp/server", "/mcp-rest/test/connection",
    "/mcp-rest/test/tools/list", "/mcp-rest/tools/call", "/config/update", "/config/yaml",
    "/get/config/callbacks", "/config/pass_through_endpoint", "/key/generate", "/v2/key/info", "/user/new",
    "/model/new", "/model/update", "/model/delete", "/v2/model/info", "/spend/logs", "/global/spend/report",
    "/cache/flushall", "/cache/redis/info", "/prompts/test", "/guardrails/apply_guardrail", "/ui/",
    "/sso/key/generate", "/openapi.json?x=1", "/routes", "/debug/asyncio-tasks", "/health/services", "/test",
    "/metrics/", "/llmp/catalog", "/v1/files", "/v1/batches", "/v1/responses/a/b", "/v1/realtime",
    "/anthropic/v1/messages", "/openai/v1/realtime", "/vertex_ai/x", "/bedrock/x", "/a2a/x",
    "/vector_stores", "/rag/ingest",
)  # fmt: skip
FIELDS: tuple[tuple[str, object], ...] = (
    ("api_base", EVIL), ("base_url", EVIL), ("api_key", "sk-x"), ("custom_llm_provider", "openai"),
    ("model_list", [{"model_name": "x", "litellm_params": {"model": "openai/x", "api_base": EVIL}}]),
    ("user_config", {"model_list": []}), ("litellm_params", {"api_base": EVIL}), ("organization", "x"),
    ("fallbacks", [{"model": "x", "api_base": EVIL}]), ("headers", {"x": EVIL}),
    ("extra_headers", {"Host": EVIL}), ("proxy_server_request", {"url": EVIL}),
    ("aws_bedrock_runtime_endpoint", EVIL), ("azure_ad_token", "x"), ("langfuse_host", EVIL),
    ("callbacks", ["x"]), ("success_callback", ["x"]), ("mock_response", "x"),
    ("extra_body", {"api_base": EVIL}), ("metadata", {"api_base": EVIL}), ("guardrails", ["x"]),
    ("vertex_credentials", "/etc/passwd"), ("oidc_token", "oidc/file//etc/passwd"), ("hf_model_name", EVIL),
)  # fmt: skip
LINKS = (
    "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:6379/", "http://2130706433/",
    "http://[::ffff:10.0.0.1]/", "http://metadata.google.internal/", "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL", "http://example.com@127.0.0.1/", "ht\ntp://169.254.169.254/",
    "http://\uff11\uff16\uff19.254.169.254/", "http://\u2460\u2461\u2466.0.0.1/",
    "http://127\u30020\u30020.1/", "http://[64:ff9b::7f00:1]/", "http://[::127.0.0.1]/",
    "http://vault.default.svc/",
)  # fmt: skip
HEADERS = (
    "x-litellm-api-base", "api-base", "x-api-base", "x-openai-base-url", "x-litellm-model",
    "x-litellm-tags", "x-litellm-timeout", "x-litellm-num-retries", "x-litellm-enable-message-redaction",
    "x-mcp-servers", "x-mcp-auth", "anthropic-beta", "x-pass-authorization", "litellm-changed-by",
    "x-original-url", "x-rewrite-url", "x-http-method-override", "x-litellm-call-id", "langfuse_trace_id",
    "cookie",
)  # fmt: skip
PATHS = (
    "//v1/chat/completions", "/v1/../config/update", "/v1/%2e%2e/config/update",
    "/v1%2fchat%2fcompletions", "/v1/chat/completions;/config/update", "/V1/CHAT/COMPLETIONS",
    "/v1/models/..%2f..%2fconfig", "/./v1/chat/completions", "/v1/chat/completions%00",
)  # fmt: skip
ADMIN_PATHS = ("/%61dmin/keys", "/admin/%6beys", "/admin%2fkeys", "/%76%31/models")


def _links() -> Iterator[tuple[str, bytes]]:
    for url in LINKS:
        content = [{"type": "image_url", "image_url": {"url": url}}]
        yield f"image {url}", request(body=_chat(messages=[{"role": "user", "content": content}]))
    tools = [{"type": "mcp", "server_url": "http://127.0.0.1:4000/mcp", "server_label": "x"}]
    yield "a tool server on this machine", request(body=_chat(tools=tools))


def _framing() -> Iterator[Attack]:
    family = "Request smuggling"
    for case in (*NOT_HTTP, *TWO_READINGS):
        raw = cast("bytes", case.values[0])
        yield Attack(family, str(case.id), raw + INNER, frozenset({400, 431, 0}))
    for expected in ("100-continue, x", "100-continue;q=1", "200-ok", "100-continue\r\nExpect: x"):
        raw = request(more=f"Expect: {expected}\r\n".encode(), auth=b"", body=INNER)
        yield Attack(family, f"Expect: {expected!r}", raw + INNER, frozenset({417}))


def _costly() -> Iterator[tuple[str, bytes, set[int]]]:
    packed, bomb = b"Content-Encoding: gzip\r\n", gzip.compress(b"\0" * 200 * 2**20, 9)
    yield "a gzip bomb, 200 kB for 200 MB", request(more=packed, body=bomb), {413}
    yield "a gzip bomb in a gzip bomb", request(more=packed, body=gzip.compress(bomb)), {400, 413}
    twice = gzip.compress(gzip.compress(_chat()))
    yield "packed twice", request(more=b"Content-Encoding: gzip, gzip\r\n", body=twice), {400, 415}
    for name, body in (
        ("JSON 200,000 deep", b"[" * 200_000 + b"]" * 200_000),
        ("messages 10,000 deep", b'{"messages":' * 10_000 + b"1" + b"}" * 10_000),
        ("300,000 unknown fields", b"{" + b",".join(b'"k%d":1' % at for at in range(300_000)) + b"}"),
        ("100,000 messages", _chat(messages=[{"role": "user", "content": "x"}] * 100_000)),
        ("a number of a million digits", b'{"model":' + b"9" * 10**6 + b"}"),
        ("one field 30,000 times", b"{" + b'"a":1,' * 30_000 + b'"a":1}'),
        ("lone surrogates and NULs", b'{"model":"\\ud800\\u0000","messages":[]}'),
    ):
        yield name, request(body=body), {400}
    yield "a length of 10 GB", request(more=b"Content-Length: 10000000000\r\n", length=False), {413}
    headers = b"".join(b"X-%d: y\r\n" % at for at in range(5000))
    yield "five thousand headers", request(more=headers), {431}
    yield "a header of 200 kB", request(more=b"X-A: " + b"a" * 200_000 + b"\r\n"), {431, 400}
    yield "a credential of 30 kB", request(auth=b"Authorization: Bearer " + b"a" * 30_000 + b"\r\n"), {401}
