"""Whatever goes wrong, nothing secret shows: no key, prompt, address, traceback or name of a part.

Keys and a prompt that occur nowhere else are sent through every play of the scripted provider, whole and
streamed, in every dialect; then answers, logs and metrics are searched for them.
"""

# ruff: noqa: E501 -- a list

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from endpoint_errors import CHAT, GENERATE, OWN, STREAM
from loopback import NO_TLS
from running_stack import ADMIN_KEY, KEY, MASTER_KEY, PROVIDER_KEY, Json, RunningStack, script
from scripted.failures import FAILURES as REAL
from scripted.script import PLAYS

PROMPT = "canary-prompt-7f3a9c"
STRANGER = "sk-canary-stranger-51d2e8"
KEYS = (KEY, ADMIN_KEY, MASTER_KEY, PROVIDER_KEY, STRANGER, "sk-canary-of-provider")
STATUSES = (
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    413,
    415,
    418,
    422,
    429,
    451,
    500,
    501,
    502,
    503,
    504,
    520,
    529,
)
FAILURES = [
    *sorted(PLAYS - {"flaky", "echo"}),
    *(f"status-{status}" for status in STATUSES),
    *(f"says-{name}" for name in REAL),
]
SHOWN_SECRETS = (
    "sk-canar", "10.1.2.3", "ops@example.com", "/etc/", "req_", "proj_", "org-", "org_", "arn:aws", "123456789012",
    "googleapis", "openai.com", "my-secret-project", "hush", "10.0.0.7", "flagged_input", "secret words", "user_2f",
)  # fmt: skip
"""Of the real providers' errors: what no caller, record or log may see."""
INSIDE = re.compile(
    r"litellm|llmp|traceback|127\.0\.0\.1|localhost|\.py\b|asyncio|aiohttp|httpx|uvicorn|sidecar(?!;dur)|openai/|"
    r"deployment|router|cooldown|master.key|api_base|scripted",
    re.IGNORECASE,
)


@pytest.fixture
async def client(stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with a good key, that waits two seconds for an answer."""
    headers = {**stack.auth, "X-Request-Timeout": "2", "Cache-Control": "no-cache"}
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, headers=headers, timeout=20) as one:
        yield one


def _body(play: str, door: str, *, streamed: bool) -> Json:
    said = f"{PROMPT} {script(do=play, retry_after='7')}"
    fields = {} if door in (GENERATE, STREAM) else {"stream": streamed}
    return {"model": "p/canary", "messages": [{"role": "user", "content": said}], **fields}


def _text(response: httpx.Response) -> str:
    """Everything a caller sees, less the two words of ours that name a part on purpose."""
    headers = [
        f"{name}: {value}" for name, value in response.headers.multi_items() if name != "server-timing"
    ]
    return "\n".join([*headers, response.text]).replace("fp_scripted", "")


@pytest.mark.parametrize("play", FAILURES)
async def test_no_answer_shows_what_is_behind(
    stack: RunningStack, client: httpx.AsyncClient, play: str
) -> None:
    """Each play, whole and streamed, in each dialect."""
    doors = ((CHAT, False), (CHAT, True), (OWN, False), (OWN, True), (GENERATE, False), (STREAM, True))
    answers = await asyncio.gather(
        *(client.post(door, json=_body(play, door, streamed=streamed)) for door, streamed in doors)
    )
    for response in answers:
        shown = _text(response)
        assert response.status_code not in (401, 500), shown
        assert response.status_code != 403 or "content_policy_violation" in shown
        assert INSIDE.search(shown.replace("The API deployment for this resource", "")) is None, shown
        assert PROMPT not in shown
        assert not [key for key in (*KEYS, *SHOWN_SECRETS) if key in shown]
        assert not [
            name for name in response.headers if name.startswith(("x-litellm", "x-llmp", "llm_provider"))
        ]
    assert len(await stack.calls()) >= len(doors)


async def test_no_refusal_of_ours_repeats_a_key_or_a_prompt(client: httpx.AsyncClient) -> None:
    """Wrong keys, broken bodies, wrong fields, unknown models and paths."""
    good = {"model": "p/ok", "messages": [{"role": "user", "content": PROMPT}]}
    stranger = {"Authorization": f"Bearer {STRANGER}"}
    answers = [
        await client.post(CHAT, json=good, headers=stranger),
        await client.post(CHAT, json=good, headers={"x-api-key": STRANGER}),
        await client.post(
            CHAT, content=json.dumps(good)[:-3].encode(), headers={"Content-Type": "application/json"}
        ),
        await client.post(CHAT, json={**good, "temperature": PROMPT}),
        await client.post(CHAT, json={**good, "api_key": STRANGER}),
        await client.post(CHAT, json={**good, "model": "nobody-has-this"}),
        await client.post(CHAT, json={**good, "messages": PROMPT}),
        await client.post(CHAT + "/", json=good),
        await client.get("/v1/models", headers=stranger),
        await client.get("/metrics", headers=stranger),
        await client.get("/health", headers=stranger),
    ]
    for response in answers:
        shown = _text(response)
        assert PROMPT not in shown
        assert not [key for key in KEYS if key in shown]
        assert INSIDE.search(shown) is None, shown


async def test_no_log_and_no_metric_holds_a_key_a_prompt_or_a_body(
    stack: RunningStack, service_folder: Path
) -> None:
    """The logs of gateway and sidecar and the metrics, after everything before."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, timeout=20) as client:
        stranger = {"Authorization": f"Bearer {STRANGER}"}
        await client.post(CHAT, json=_body("status-500", CHAT, streamed=False), headers=stack.auth)
        await client.post(CHAT, json=_body("cut", CHAT, streamed=True), headers=stack.auth)
        for name in REAL:
            reported = await client.post(
                CHAT, json=_body(f"says-{name}", CHAT, streamed=False), headers=stack.auth
            )
            record = str(await stack.story(reported.headers["x-request-id"]))
            assert not [key for key in (*KEYS, *SHOWN_SECRETS, PROMPT) if key in record], record
        for streamed in (False, True):
            await client.post(CHAT, json=_body("echo", CHAT, streamed=streamed), headers=stack.auth)
        await client.post(CHAT, json=_body("ok", CHAT, streamed=False), headers=stranger)
        metrics = await client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert metrics.status_code == 200
    texts = {name: (service_folder / "logs" / name).read_text() for name in ("gateway.log", "sidecar-1.log")}
    texts["metrics"] = metrics.text
    for name, text in texts.items():
        assert text, name
        assert PROMPT not in text, name
        assert not [key for key in (*KEYS, *SHOWN_SECRETS) if key in text], name
    assert "Traceback" not in texts["gateway.log"]
