"""Malformed requests through nginx and HAProxy affect no later client.

The proxy reads a request its own way and keeps its connections to the gateway: what the two of them read
differently would be answered to somebody else, or wait for ever.
"""

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_http import send_raw
from raw_requests import CHAT, INNER, NOT_HTTP, TWO_READINGS, request
from reverse_proxies import PROXIES, run_proxy
from running_stack import ADMIN_KEY

from llm_proxy.stack import probe


@pytest.fixture(scope="module", params=PROXIES)
def front(request: pytest.FixtureRequest, stack_ports: dict[str, int]) -> Iterator[int]:
    """Returns the port of a proxy before the stack's gateway."""
    port = probe.free_port()
    with tempfile.TemporaryDirectory(prefix="llm-proxy-front-") as folder:
        Path(folder).chmod(0o777)  # as root, nginx writes as somebody else
        with run_proxy(request.param, port, stack_ports["gateway"], Path(folder)):
            yield port


def next_clients_get_their_own_responses(front: int) -> None:
    """Checks later clients on every connection the proxy has to the gateway."""
    for _ in range(4):
        mark = uuid.uuid4().hex
        said = send_raw(
            front, request(b"/v1/models/p/" + mark.encode(), method=b"GET", length=False, body=b""), wait_s=6
        )
        assert said.statuses == [200], said.raw
        assert mark.encode() in said.body


def chunked(trailers: bytes, more: bytes = b"", *, auth: bytes = b"") -> bytes:
    """Returns a chunked request with trailers, without a key."""
    body = b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n"
    return request(more=b"Transfer-Encoding: chunked\r\n" + more, length=False, body=body, auth=auth)


ODD = [
    *(pytest.param(one.values[0], id=str(one.id)) for one in (*NOT_HTTP, *TWO_READINGS)),
    pytest.param(chunked(b"Connection: close\r\n"), id="trailer that closes"),
    pytest.param(
        chunked(b"Connection: close\r\n", b"Trailer: Connection\r\n"), id="announced trailer that closes"
    ),
    pytest.param(chunked(b"Upgrade: h2c\r\nConnection: upgrade\r\n"), id="trailer that upgrades"),
    pytest.param(chunked(b"Content-Length: 5\r\n"), id="trailer with a length"),
    pytest.param(chunked(b"Authorization: Bearer x\r\n"), id="trailer with a key"),
    pytest.param(chunked(b"", b"Connection: close, Transfer-Encoding\r\n"), id="hop-by-hop coding"),
    pytest.param(request(more=b"Connection: Content-Length\r\n", auth=b""), id="hop-by-hop length"),
    pytest.param(request(more=b"Expect: 100-continue\r\n", auth=b"", body=INNER), id="expects"),
    pytest.param(
        request(more=b"Expect:  100-continue \r\n", auth=b"", body=INNER), id="expects, with spaces"
    ),
    pytest.param(request(more=b"Expect: 100-continue, x\r\n", auth=b"", body=INNER), id="expects a list"),
    pytest.param(request(more=b"Expect: x\r\n", auth=b"", body=INNER), id="expects something else"),
    pytest.param(request(path=CHAT + b"?\\#", auth=b""), id="backslash in a query"),
]


@pytest.mark.parametrize("raw", ODD)
def test_a_malformed_request_affects_no_other_client(front: int, raw: bytes) -> None:
    """Later requests use the connection that carried it; each gets its own response."""
    said = send_raw(front, raw, wait_s=0.3)
    assert len(said.statuses) <= 1 + raw.count(b" HTTP/1.1\r\n")
    next_clients_get_their_own_responses(front)


@pytest.mark.parametrize(
    "path",
    [
        b"/%61dmin/keys", b"/admin/keys", b"//admin/keys", b"/./admin/keys", b"/x/../admin/keys",
        b"/x/%2e%2e/admin/keys",
        b"/admin%2fkeys", b"/;/admin/keys", b"/ADMIN/keys", b"/%2561dmin/keys", b"/\\admin\\keys",
        b"http://x/admin/keys",
        b"http://x/%61dmin/keys", b"/x/..;/admin/keys", b"/admin/keys%3f", b"/%2e/admin/keys",
    ],
)  # fmt: skip
def test_what_a_proxy_denies_stays_denied(front: int, path: bytes) -> None:
    """Even with an admin key: no spelling of an admin path passes the proxy's rule."""
    auth = f"Authorization: Bearer {ADMIN_KEY}\r\n".encode()
    said = send_raw(front, request(path, method=b"GET", auth=auth, body=b""), wait_s=3)
    assert said.statuses
    assert set(said.statuses) <= {400, 403, 404}
    next_clients_get_their_own_responses(front)
