"""Answers no server should give: each caller gets its own answer or a 502, and the gateway goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hostile_sidecar import BROKEN, ENDLESS, ERRORS, NUMBERS, STOLEN, STREAMS, UNCOUNTED, WHOLE
from loopback import NO_TLS
from two_sidecars import GatewayOverSidecars, TwoSidecars, run_gateway

from llm_proxy.stack import probe

HOSTILE = Path(__file__).parents[1] / "hostile_sidecar.py"
MAX_RSS_KB = 700_000


@pytest.fixture(scope="module")
def front(
    tmp_path_factory: pytest.TempPathFactory, two_sidecars: TwoSidecars, postgres_url: str
) -> Iterator[GatewayOverSidecars]:
    """A gateway before that sidecar alone."""
    port, folder = probe.free_port(), tmp_path_factory.mktemp("hostile")
    with subprocess.Popen([sys.executable, str(HOSTILE), str(port)], env=dict(os.environ)) as sidecar:
        names = {
            "LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{port}",
            "LLM_PROXY__FIRST_BYTE_TIMEOUT_S": "5",
            "DATABASE_URL": postgres_url,
        }
        try:
            with run_gateway(folder, two_sidecars, names, sidecars=0) as made:
                yield made
        finally:
            sidecar.kill()
    log = "".join(file.read_text(encoding="utf-8") for file in (folder / "logs").glob("gateway*.log"))
    assert "Traceback" not in log
    assert '"level":"ERROR"' not in log


def ask(front: GatewayOverSidecars, name: str, *, stream: bool = False) -> httpx.Response:
    """One call that asks for that answer; a stream with its usage."""
    body: dict[str, object] = {"model": "any", "messages": [{"role": "user", "content": name}]}
    body |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return httpx.post(
        f"{front.url}/v1/chat/completions", json=body, headers=front.auth, timeout=30, verify=NO_TLS
    )


def said(answer: httpx.Response) -> str:
    """What a good answer says."""
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def next_callers_hear_themselves(front: GatewayOverSidecars) -> None:
    """Whatever connection they get."""
    for mark in ("first", "second", "third"):
        answer = ask(front, mark)
        assert said(answer) == mark
        assert STOLEN not in answer.text


def rss_kb(front: GatewayOverSidecars) -> int:
    """What the gateway keeps in memory."""
    status = Path(f"/proc/{front.gateway.popen.pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


@pytest.mark.parametrize("name", WHOLE)
def test_what_comes_with_a_good_answer_has_no_effect(front: GatewayOverSidecars, name: str) -> None:
    """Not on it, not on the next caller's, not on the bill."""
    answer = ask(front, name)
    assert said(answer) == "good"
    assert "777" not in answer.headers.get("x-llm-proxy-cost-usd", "")
    assert answer.headers["x-llm-proxy-model"] == "any"
    next_callers_hear_themselves(front)


@pytest.mark.parametrize("name", STREAMS)
def test_what_comes_behind_a_stream_goes_to_nobody(front: GatewayOverSidecars, name: str) -> None:
    """The stream is whole, and the next caller's answer its own."""
    answer = ask(front, name, stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert STOLEN not in answer.text
    next_callers_hear_themselves(front)


@pytest.mark.parametrize("name", UNCOUNTED)
def test_zeros_that_no_provider_stated_are_estimated(front: GatewayOverSidecars, name: str) -> None:
    """Whole and streamed: the caller hears an estimate, not zeros."""
    streams = UNCOUNTED[name][1]
    answer = ask(front, name, stream=streams)
    last = answer.text.split("data: ")[-2] if streams else answer.text
    usage = json.loads(last)["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_no_call_can_have_is_not_known(front: GatewayOverSidecars, name: str) -> None:
    """The answer passes; it is neither billed nor counted by that number."""
    answer = ask(front, name)
    assert said(answer) == "good"
    assert float(answer.headers.get("x-llm-proxy-cost-usd", "0")) < 100_000
    assert int(answer.headers.get("x-llm-proxy-attempts", "1")) < 10_000
    assert "nan" not in answer.headers["server-timing"]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_s_numbers_are_bounded(front: GatewayOverSidecars, name: str) -> None:
    """The wait is a number of seconds that a client can wait."""
    answer = ask(front, name)
    assert 400 <= answer.status_code < 600
    assert answer.status_code != 500
    assert 0 < int(answer.headers.get("retry-after", "1")) <= 86_400
    assert 0 <= int(answer.headers.get("retry-after-ms", "0")) <= 86_400_000


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_answer_is_a_502(front: GatewayOverSidecars, name: str) -> None:
    """Nobody hears the half of it, and the next caller is served."""
    answer = ask(front, name)
    assert (answer.status_code, STOLEN in answer.text) == (502, False)
    next_callers_hear_themselves(front)


@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_is_ended(front: GatewayOverSidecars, name: str) -> None:
    """Before it fills the memory; who asked hears a 502."""
    assert ask(front, name).status_code == 502
    assert rss_kb(front) < MAX_RSS_KB
    next_callers_hear_themselves(front)


def test_every_call_is_on_record(front: GatewayOverSidecars) -> None:
    """No number stood in the way of the rows."""
    headers = {"Authorization": "Bearer stack-admin-0123456789abcdef"}
    health = httpx.get(f"{front.url}/health/ready", headers=headers, timeout=30).json()
    assert health["status"] != "down"
    usage = httpx.get(f"{front.url}/v1/usage", headers=headers, timeout=30)
    assert usage.status_code == 200
