"""Signing in by an OpenID provider: roles from groups, the person's name in the audit log, forged answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from oidc_provider import OidcProvider, query_of, run_oidc_provider
from running_console import ConsoleProcess, RunningConsole, post, serve_console
from running_stack import RunningStack

ROLES = {"platform": "owner", "support": "viewer", "acme-leads": "tenant:acme"}


@pytest.fixture(scope="module")
def provider(service_folder: Path) -> Iterator[OidcProvider]:
    """The identity provider."""
    with run_oidc_provider(service_folder) as running:
        yield running


@pytest.fixture(scope="module")
def oidc_process(
    service_folder: Path, postgres_url: str, stack_ports: dict[str, int], provider: OidcProvider
) -> Iterator[ConsoleProcess]:
    """A console that knows the identity provider."""
    settings = {
        "LLM_PROXY__CONSOLE_OIDC_ISSUER": provider.url,
        "LLM_PROXY__CONSOLE_OIDC_CLIENT_ID": "console",
        "LLM_PROXY__CONSOLE_OIDC_CLIENT_SECRET": "a-secret-of-the-client",
        "LLM_PROXY__CONSOLE_OIDC_ROLES": json.dumps(ROLES),
    }
    gateway = f"http://127.0.0.1:{stack_ports['gateway']}"
    with serve_console(service_folder, postgres_url, gateway, settings) as served:
        yield served


@pytest.fixture
def console(oidc_process: ConsoleProcess, stack: RunningStack) -> RunningConsole:
    """The running console."""
    return RunningConsole(oidc_process, stack)


async def begin(client: httpx.AsyncClient) -> str:
    """Returns where the console sends a browser to sign in."""
    sent = await client.get("/sign-in/oidc?next=/sessions")
    assert sent.status_code == 303, sent.text
    return sent.headers["location"]


async def answer_for(client: httpx.AsyncClient, provider: OidcProvider, sub: str) -> dict[str, str]:
    """Returns what the provider sends a browser back with."""
    return query_of(await provider.sign_in(await begin(client), sub))


def person(provider: OidcProvider, *groups: str, **claims: Any) -> str:
    """Returns the name of a new person in groups."""
    name = f"{uuid4().hex}@example.com"
    provider.add_person(name, email=name, groups=list(groups), **claims)
    return name


async def audit(console: RunningConsole, **parameters: str) -> list[dict[str, Any]]:
    """Returns entries of the audit log."""
    async with httpx.AsyncClient(base_url=console.stack.url) as client:
        headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
        answer = await client.get("/admin/audit", params=parameters, headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        (["platform", "support"], "owner"),
        (["support", "unknown"], "viewer"),
        (["acme-leads"], "tenant of acme"),
    ],
)
async def test_groups_give_the_role(
    console: RunningConsole, provider: OidcProvider, groups: list[str], shown: str
) -> None:
    async with console.stranger() as client:
        name = person(provider, *groups)
        done = await client.get("/sign-in/oidc/callback", params=await answer_for(client, provider, name))
        assert (done.status_code, done.headers["location"]) == (303, "/sessions")
        page = (await client.get("/sessions")).text
    assert f'title="{name}"' in page
    assert f'<span class="badge">{shown}</span>' in page


async def test_nobody_without_a_role_comes_in(console: RunningConsole, provider: OidcProvider) -> None:
    async with console.stranger() as client:
        answer = await answer_for(client, provider, person(provider, "others"))
        refused = await client.get("/sign-in/oidc/callback", params=answer)
        assert refused.status_code == 403
        assert "in no group" in refused.text
        assert (await client.get("/sessions")).status_code == 303


async def test_the_audit_log_names_the_person_and_the_key_ends_with_the_session(
    console: RunningConsole, provider: OidcProvider
) -> None:
    name = person(provider, "platform")
    for _ in range(2):  # two sessions of one person
        async with console.stranger() as client:
            answer = await answer_for(client, provider, name)
            assert (await client.get("/sign-in/oidc/callback", params=answer)).status_code == 303
            assert (await post(client, "/sign-out")).status_code == 303
    entries = await audit(console, actor=name)
    assert {entry["action"] for entry in entries} >= {
        "admin_keys.create",
        "console.sign_in",
        "console.sign_out",
    }
    async with httpx.AsyncClient(base_url=console.stack.url) as gateway:
        headers = {"Authorization": f"Bearer {console.stack.admin_key}"}
        listed = (await gateway.get("/admin/admin-keys?limit=500", headers=headers)).json()["data"]
    assert name not in {one["name"] for one in listed}


async def test_an_answer_counts_in_the_browser_that_asked_and_once(
    console: RunningConsole, provider: OidcProvider
) -> None:
    name = person(provider, "platform")
    async with console.stranger() as victim, console.stranger() as attacker, console.stranger() as nobody:
        answer = await answer_for(attacker, provider, name)
        await begin(victim)
        for client in (victim, nobody):
            refused = await client.get("/sign-in/oidc/callback", params=answer)
            assert refused.status_code == 403
            assert "in another browser" in refused.text
        own = await answer_for(victim, provider, name)
        kept = dict(victim.cookies)
        assert (await victim.get("/sign-in/oidc/callback", params=own)).status_code == 303
        victim.cookies.update(kept)
        assert (await victim.get("/sign-in/oidc/callback", params=own)).status_code == 502


@pytest.mark.parametrize(
    "forged",
    [
        {"code": "guessed"},
        {"code": ""},
        {"error": "access_denied"},
        {"iss": "https://evil.example"},
        {"state": ""},
    ],
)
async def test_a_forged_answer_signs_nobody_in(
    console: RunningConsole, provider: OidcProvider, forged: dict[str, str]
) -> None:
    async with console.stranger() as client:
        answer = await answer_for(client, provider, person(provider, "platform"))
        refused = await client.get("/sign-in/oidc/callback", params=answer | forged)
        assert refused.status_code in (403, 502)
        assert (await client.get("/sessions")).status_code == 303


async def test_a_reserved_name_is_nobodys(console: RunningConsole, provider: OidcProvider) -> None:
    provider.add_person("admin_key", email="admin_key", groups=["platform"])
    async with console.stranger() as client:
        answer = await answer_for(client, provider, "admin_key")
        assert (await client.get("/sign-in/oidc/callback", params=answer)).status_code == 400


async def test_an_address_that_is_not_verified_names_nobody(
    console: RunningConsole, provider: OidcProvider
) -> None:
    sub = uuid4().hex
    provider.add_person(sub, email="boss@example.com", email_verified=False, groups=["support"])
    async with console.stranger() as client:
        answer = await answer_for(client, provider, sub)
        await client.get("/sign-in/oidc/callback", params=answer)
        assert f'title="{sub}"' in (await client.get("/sessions")).text


async def test_with_the_provider_away_keys_still_sign_in(
    console: RunningConsole, service_folder: Path, postgres_url: str
) -> None:
    settings = {
        "LLM_PROXY__CONSOLE_OIDC_ISSUER": "http://127.0.0.1:9",
        "LLM_PROXY__CONSOLE_OIDC_CLIENT_ID": "console",
        "LLM_PROXY__CONSOLE_OIDC_ROLES": json.dumps(ROLES),
    }
    with serve_console(service_folder, postgres_url, console.stack.url, settings) as served:
        alone = RunningConsole(served, console.stack)
        async with alone.stranger() as client:
            refused = await client.get("/sign-in/oidc")
            assert refused.status_code == 502
            assert "Sign in with a key" in refused.text
        async with alone.signed_in() as client:
            assert (await client.get("/sessions")).status_code == 200
