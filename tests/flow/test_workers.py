"""Several workers on one port: decisions hold at each of them, and malformed requests harm none."""

import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from processes import children, lives, may_dump_core
from raw_http import send_raw
from raw_requests import request
from running_stack import ADMIN_KEY
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway

WORKERS = 3
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory,
    two_sidecars: TwoSidecars,
    postgres_url: str,
    limits_redis_url: str,
) -> Iterator[GatewayOverSidecars]:
    """A gateway of three workers on the session's stores."""
    names = {
        "LLM_PROXY__WORKERS": str(WORKERS),
        "DATABASE_URL": postgres_url,
        "LIMITS_REDIS_URL": limits_redis_url,
    }
    with run_gateway(tmp_path_factory.mktemp("workers"), two_sidecars, names) as made:
        yield made


def key(front: GatewayOverSidecars, name: str, **spec: object) -> tuple[str, str]:
    """A new key and its id."""
    made = httpx.post(f"{front.url}/admin/keys", json={"name": name, "models": ["*"], **spec}, headers=ADMIN)
    assert made.status_code == 201, made.text
    return made.json()["key"], made.json()["id"]


def statuses(front: GatewayOverSidecars, secret: str, times: int) -> Counter[int]:
    """The statuses of `times` calls, each on a new connection, so that any worker may accept it."""
    headers = {"Authorization": f"Bearer {secret}"}
    return Counter(
        httpx.post(
            f"{front.url}/v1/chat/completions", json=front.body(), headers=headers, timeout=20
        ).status_code
        for _ in range(times)
    )


def workers(front: GatewayOverSidecars) -> list[int]:
    """The process ids of the workers."""
    return children(front.gateway.popen.pid)


def test_a_limit_holds_over_all_workers(front: GatewayOverSidecars) -> None:
    """Exactly as many calls pass as the limit allows."""
    secret, _ = key(front, "workers-limit", rpm=5)
    assert statuses(front, secret, 15) == {200: 5, 429: 10}


def test_a_revoked_key_is_rejected_by_every_worker(front: GatewayOverSidecars) -> None:
    """Within a second, although each of them had cached the key."""
    secret, key_id = key(front, "workers-revoked")
    assert statuses(front, secret, 4 * WORKERS) == {200: 4 * WORKERS}
    assert httpx.delete(f"{front.url}/admin/keys/{key_id}", headers=ADMIN).status_code == 200
    time.sleep(1)
    assert statuses(front, secret, 4 * WORKERS) == {401: 4 * WORKERS}


def test_a_kill_switch_stops_every_worker(front: GatewayOverSidecars) -> None:
    """Until it is disabled."""
    secret, _ = key(front, "workers-killed", tenant="stopped")
    switch = {"kind": "tenant", "subject": "stopped"}
    enabled = httpx.put(f"{front.url}/admin/kills", json=switch, headers=ADMIN)
    assert enabled.status_code in {200, 201}, enabled.text
    time.sleep(1)
    assert statuses(front, secret, 4 * WORKERS) == {403: 4 * WORKERS}
    disabled = httpx.request("DELETE", f"{front.url}/admin/kills", json=switch, params=switch, headers=ADMIN)
    assert disabled.status_code == 200, disabled.text
    time.sleep(1)
    assert statuses(front, secret, 4 * WORKERS) == {200: 4 * WORKERS}


def test_malformed_requests_leave_every_worker_serving(front: GatewayOverSidecars) -> None:
    """No worker fails and none is replaced."""
    port, before = int(front.url.rpartition(":")[2]), workers(front)
    assert len(before) == WORKERS
    trailer = b"2\r\n{}\r\n0\r\nConnection: close\r\n\r\n"
    malformed = (
        request(more=b"Transfer-Encoding: chunked\r\n", length=False, body=trailer, auth=b""),
        request(version=b"RTSP/1.0"),
        request(more=b"Expect: x\r\n", auth=b""),
        request(more=b"Content-Length: 5\r\n"),
    )
    for raw in malformed * WORKERS * 2:
        assert all(400 <= status < 500 for status in send_raw(port, raw, wait_s=2).statuses)
    for _ in range(4 * WORKERS):
        assert send_raw(port, request(b"/health/live", method=b"GET", body=b"")).statuses == [200]
    assert workers(front) == before


def test_no_worker_dumps_core(front: GatewayOverSidecars) -> None:
    """Their memory holds keys."""
    running = [front.gateway.popen.pid, *workers(front)]
    assert all(map(lives, running))
    assert [pid for pid in running if may_dump_core(pid)] == []
