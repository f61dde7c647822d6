"""What a command is configured with: the settings, and for a stack running in this folder its addresses.

Invariants: what the operator gave wins; the note of a running stack counts only where nothing was given, and
only while it runs.
"""

import os
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr, ValidationError

from llm_proxy.cli.printing import FAILED, UNAVAILABLE, WRONG, fail
from llm_proxy.settings import PREFIX, Settings, faults_of, load
from llm_proxy.stack import presence
from llm_proxy.stack.ports import reached_at

URL = "LLM_PROXY_URL"
TOLD_S = 5
"""So long a command waits for what the gateway can add to its answer."""
_NOTED = ("DATABASE_URL", "LIMITS_REDIS_URL")


def noted() -> dict[str, str]:
    """What a stack that runs in this folder has written down."""
    return presence.noted(Path(os.environ.get("LLM_PROXY_STATE", ".local")))


def settings() -> Settings:
    """The settings; ends the command with one line naming the variable that is wrong."""
    try:
        found = load()
        note = noted()
        missing = {
            name.lower(): note[PREFIX + name]
            for name in _NOTED
            if getattr(found, name.lower()) is None and note.get(PREFIX + name)
        }
        return load(**missing) if missing else found
    except ValidationError as wrong:
        fail(faults_of(wrong)[0], WRONG)


def gateway_url(found: Settings) -> str:
    """Where the gateway answers: the one running in this folder, else the one the settings mean."""
    return noted().get(URL) or f"http://{reached_at(found.host)}:{found.port}"


def gateway(found: Settings, key: SecretStr, url: str | None, *, timeout_s: float) -> httpx.Client:
    """A client of the gateway at `url`, or of the one the settings mean, with an admin key."""
    base = (url or gateway_url(found)).rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"}
    return httpx.Client(base_url=base, headers=headers, timeout=timeout_s)


def ask(client: httpx.Client, method: str, path: str, body: object = None) -> dict[str, Any]:
    """The JSON answer of a route; ends the command with the gateway's message for anything but a success."""
    try:
        answer = client.request(method, path, json=body)
    except httpx.HTTPError as fault:
        fail(f"the gateway at {client.base_url} does not answer: {fault}", UNAVAILABLE)
    if not answer.is_success:
        status = answer.status_code
        code = WRONG if status == 400 else UNAVAILABLE if status >= 500 else FAILED
        fail(f"{status}: {_message(answer)}", code)
    document: dict[str, Any] = answer.json()
    return document


def told_by_gateway(path: str) -> dict[str, Any] | None:
    """The running gateway's answer to an operator; None when none answers, or no admin key is known."""
    found = settings()
    secret = found.admin_read_key or found.admin_key
    if secret is None:
        return None
    try:
        with gateway(found, secret, None, timeout_s=TOLD_S) as client:
            answer = client.get(path)
    except httpx.HTTPError:
        return None
    document: dict[str, Any] | None = answer.json() if answer.is_success else None
    return document


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
