"""Timeouts as an owner's file states them: LiteLLM obeys them, and the gateway waits as long."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from loopback import NO_TLS
from running_stack import KEY, Json, say, script
from sidecars import KEY as SIDECAR_KEY
from sidecars import deployment, run_provider, run_sidecar
from stack_processes import serve_gateway


@pytest.fixture(scope="module")
def gateway_url(service_folder: Path) -> Iterator[str]:
    """A gateway with its own defaults before a sidecar whose file has timeouts."""
    folder = service_folder / "owner-timeouts"
    folder.mkdir()
    with run_provider(folder) as provider:
        config = {
            "model_list": [
                deployment("plain", "openai/plain", provider),
                deployment("own", "openai/own", provider, timeout=2),
                deployment("patient", "openai/patient", provider, timeout=600, num_retries=2),
                deployment("streams", "openai/streams", provider, stream_timeout=90),
                deployment("alone", "openai/alone", provider),
            ],
            "router_settings": {"timeout": 1, "num_retries": 0, "fallbacks": [{"alone": ["patient"]}]},
        }
        with run_sidecar(config, provider, folder) as sidecar:
            settings = {"LITELLM_MASTER_KEY": SIDECAR_KEY}
            with serve_gateway(folder, [sidecar.url], settings) as gateway:
                yield gateway.url


async def _post(url: str, path: str, body: Json, **headers: str) -> httpx.Response:
    sent = {"Authorization": f"Bearer {KEY}"} | headers
    async with httpx.AsyncClient(verify=NO_TLS, headers=sent, timeout=60) as client:
        return await client.post(f"{url}{path}", json=body)


@pytest.mark.parametrize(("model", "streamed", "least_s"), [("plain", False, 0.9), ("own", True, 1.9)])
async def test_the_owner_s_timeout_ends_a_call(
    gateway_url: str,
    model: str,
    streamed: bool,  # noqa: FBT001 -- a parameter
    least_s: float,
) -> None:
    """The router's own, and a deployment's for its streams: a default of ours would hide both."""
    begun = time.monotonic()
    body = {"model": model, "messages": say(script(do="hang")), "stream": streamed}
    answer = await _post(gateway_url, "/v1/chat/completions", body)
    assert answer.status_code == 504
    assert time.monotonic() - begun > least_s


@pytest.mark.parametrize(
    ("model", "requested_s", "found"),
    [
        ("plain", None, (120, 60, 600)),
        ("patient", None, (1825, 605, 2305)),
        ("patient", "1500", (1825, 605, 1500)),
        ("streams", None, (120, 95, 600)),
        ("alone", None, (1826, 605, 2306)),
    ],
)
async def test_the_gateway_waits_as_long_as_the_file_says(
    gateway_url: str, model: str, requested_s: str | None, found: tuple[float, float, float]
) -> None:
    """`explain` tells a call's timeouts: every attempt and fallback fits, and a caller may ask for less."""
    headers = {"X-Request-Timeout": requested_s} if requested_s else {}
    told = (
        await _post(gateway_url, "/v1/explain", {"model": model, "messages": say("hi")}, **headers)
    ).json()
    assert told["timeouts"] == dict(zip(("first_byte_s", "idle_s", "total_s"), found, strict=True))
