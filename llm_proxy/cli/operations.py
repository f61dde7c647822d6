"""`llm-proxy status`, `models`, `cache` and `erase`: commands that ask the running gateway.

Invariants: `models --check` is the only one that calls models, each group once. Exit 1 when requests are not
served, a checked model failed, or something was not deleted; exit 3 when no gateway answers.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote

import click
import httpx

from llm_proxy.cli import context
from llm_proxy.cli.context import complete_models
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    EXIT_WRONG_INPUT,
    Column,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_json,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.json_access import Json

STATUS_TIMEOUT_S = 10
_COMPONENT_COLUMNS = ("part", "state", Column("for", number=True), "detail")


@click.command
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def status(*, as_json: bool, url: str | None) -> None:
    """Show whether requests are served, and the state of each part: sidecars, stores, workers.

    Reads LLM_PROXY__ADMIN_READ_KEY or LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/; without
    either only the verdict is known.
    """
    settings = context.load_settings()
    base = (url or context.gateway_url(settings)).rstrip("/").removesuffix("/v1")
    key = settings.admin_read_key or settings.admin_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
    try:
        answer = httpx.get(f"{base}/health", headers=headers, timeout=STATUS_TIMEOUT_S)
        found: Json = answer.json()
    except (httpx.HTTPError, ValueError) as fault:
        fail(f"the gateway at {base} does not answer: {fault}", EXIT_UNAVAILABLE)
    parts: list[Json] = found.pop("parts", [])
    if as_json:
        print_json({"url": base, **found, "parts": parts})
    else:
        print_fields({"gateway": base, **found})
        if parts:
            click.echo()
            print_table(_COMPONENT_COLUMNS, [_component_row(one) for one in parts])
        else:
            warn(
                "the parts are shown to an admin: LLM_PROXY__ADMIN_READ_KEY is not set, or not the gateway's"
            )
    sys.exit(0 if answer.status_code == 200 else EXIT_FAILED)


def _component_row(one: Json) -> tuple[str, ...]:
    return one["part"], one["state"], f"{one['since_s']:.0f} s", one["detail"]


CHECKS_AT_ONCE = 4
MODELS_TIMEOUT_S = 75


@click.command
@click.option("--check", is_flag=True, help="Call each group once, with a few tokens; this may cost money.")
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
@click.argument("names", nargs=-1, shell_complete=complete_models)
def models(*, check: bool, as_json: bool, url: str | None, names: tuple[str, ...]) -> None:
    """List model groups, or those of NAMES: providers, prices per million tokens, health from live traffic.

    Reads LLM_PROXY__ADMIN_KEY (to list, LLM_PROXY__ADMIN_READ_KEY is enough) from the environment, .env or
    .keys/.
    """
    settings = context.load_settings()
    key = settings.admin_key or (None if check else settings.admin_read_key)
    if key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", EXIT_WRONG_INPUT)
    with context.gateway_client(settings, key, url, timeout_s=MODELS_TIMEOUT_S) as client:
        groups = [
            one
            for one in context.request_json(client, "GET", "/admin/models")["data"]
            if not names or one["id"] in names
        ]
        if check:
            checked = [one for one in groups if not one["wildcard"]]
            with ThreadPoolExecutor(CHECKS_AT_ONCE) as several:
                results = list(several.map(partial(_probe_model, client), [one["id"] for one in checked]))
            _show_models(results, as_json=as_json, table=_print_probe_results)
            sys.exit(0 if all(one["ok"] for one in results) else 1)
    _show_models(groups, as_json=as_json, table=_print_groups)


def _probe_model(client: httpx.Client, name: str) -> Json:
    try:
        return context.request_json(client, "POST", f"/admin/models/{quote(name)}/test")
    except click.ClickException as fault:
        return {"id": name, "ok": False, "error": {"message": fault.message}}


def _show_models(found: list[Json], *, as_json: bool, table: Callable[[list[Json]], None]) -> None:
    if as_json:
        print_json(found)
    else:
        table(found)


def _print_groups(groups: list[Json]) -> None:
    titles = ("mode", "providers", "$/M in, out", "last ok", "failed, 5 min", "falls back to")
    rows: list[tuple[str, ...]] = []
    for one in groups:
        health = one["health"]
        prices = ", ".join(_prices_text(one, f"{way}_usd_per_million") for way in ("input", "output"))
        lately = f"{health['failures']} of {health['calls']}" if health["calls"] else "-"
        if health["last_failure_at"]:
            lately += f" ({health['last_failure_code']} {_time_text(health['last_failure_at'])})"
        rows.append((
            one["id"], one["mode"], ", ".join(one["providers"]), prices,
            _time_text(health["last_success_at"]), lately, ", ".join(one["fallbacks"]) or "-",
        ))  # fmt: skip
    print_table([Column("model", unbroken=True), *titles], rows)


def _time_text(moment: str | None) -> str:
    """The time of day, UTC."""
    return moment[11:19] if moment else "-"


def _prices_text(group: Json, name: str) -> str:
    """One price, or every one there is behind the group; `?` where nobody states one."""
    return " / ".join(dict.fromkeys(one[name] or "?" for one in group["deployments"])) or "?"


def _print_probe_results(results: list[Json]) -> None:
    rows: list[tuple[str, ...]] = []
    for one in results:
        error: Json = one["error"] or {}
        said = " ".join(str(error[name]) for name in ("status", "code", "message") if error.get(name))
        latency = f"{one['latency_ms']:.0f}" if "latency_ms" in one else "-"
        cost, provider = one.get("cost_usd") or "?", one.get("provider") or "-"
        rows.append((one["id"], "ok" if one["ok"] else "failed", provider, latency, cost, said))
    numbers = (Column("ms", number=True), Column("cost USD", number=True))
    print_table([Column("model", unbroken=True), "", "provider", *numbers, "error"], rows)


PURGE_TIMEOUT_S = 75


@click.group
def cache() -> None:
    """Look after the response cache."""


@cache.command("purge")
@click.option("--tenant", help="Only answers of this tenant.")
@click.option("--model", help="Only answers of this model group.", shell_complete=complete_models)
@as_json_option
@yes_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def purge_cache(*, tenant: str | None, model: str | None, as_json: bool, yes: bool, url: str | None) -> None:
    """Delete cached answers: all of them, or those of a tenant, a model, or both.

    Reads LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/.
    """
    settings = context.load_settings()
    if settings.admin_key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", EXIT_WRONG_INPUT)
    whose = " and ".join(f"{name} {value}" for name, value in (("tenant", tenant), ("model", model)) if value)
    confirm(f"Delete the cached answers of {whose or 'everything'}?", yes=yes)
    named = {name: value for name, value in (("tenant", tenant), ("model", model)) if value is not None}
    with context.gateway_client(settings, settings.admin_key, url, timeout_s=PURGE_TIMEOUT_S) as client:
        purged = context.request_json(client, "DELETE", str(httpx.URL("/admin/cache", params=named)))
    if as_json:
        print_json(purged)
    else:
        click.echo(f"{purged['purged']} cached answers deleted")


ERASE_TIMEOUT_S = 600
_ERASURE_COLUMNS = (Column("store"), Column("state"), Column("found", number=True), Column("note"))
_PERSONAL_STORES = (
    "payloads", "requests", "roll-ups", "revoked keys", "refusals", "notifications", "old audit log",
    "rejected records", "langfuse",
)  # fmt: skip
_url_option = click.option(
    "--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings]."
)


@click.group
def erase() -> None:
    """Erase a person's text and name."""


@erase.command("user")
@click.argument("name")
@click.option("--tenant", required=True, help="Within this tenant; an empty word: calls without a tenant.")
@as_json_option
@yes_option
@_url_option
def erase_user(*, name: str, tenant: str, as_json: bool, yes: bool, url: str | None) -> None:
    """Erase everything a tenant's user NAME said and was answered, and the name itself.

    Repeat it to go on with what was incomplete. Reads LLM_PROXY__ADMIN_KEY from the environment, .env or
    .keys/.
    """
    whose = f"of tenant {tenant}" if tenant else "without a tenant"
    confirm(f"Erase the user {name} {whose} for good?", yes=yes)
    certificate = _post("/admin/erasures", url, {"tenant": tenant, "user": name})
    if as_json:
        print_json(certificate)
    else:
        _print_certificate(certificate)
    sys.exit(0 if certificate["complete"] else EXIT_FAILED)


@erase.command("replay")
@as_json_option
@_url_option
def replay_erasures(*, as_json: bool, url: str | None) -> None:
    """Erase again who has come back out of a backup, and go on with what is incomplete.

    The gateway does the same at its start and every ten minutes.
    """
    certificates = _post("/admin/erasures/replay", url)["data"]
    if as_json:
        print_json(certificates)
    elif not certificates:
        click.echo("nobody has come back, and nothing is incomplete")
    else:
        for one in certificates:
            _print_certificate(one)
    sys.exit(0 if all(one["complete"] for one in certificates) else EXIT_FAILED)


def _post(path: str, url: str | None, body: dict[str, str] | None = None) -> dict[str, Any]:
    settings = context.load_settings()
    if settings.admin_key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", EXIT_WRONG_INPUT)
    with context.gateway_client(settings, settings.admin_key, url, timeout_s=ERASE_TIMEOUT_S) as client:
        return context.request_json(client, "POST", path, body)


def _print_certificate(certificate: dict[str, Any]) -> None:
    stores: dict[str, dict[str, Any]] = certificate["stores"]
    kept = [name for name, one in stores.items() if one["state"] == "kept"]
    if not certificate["complete"]:
        result = "NOT YET ERASED: repeat the command, or leave it to the gateway, which goes on by itself"
    elif not any(stores.get(name, {}).get("found") for name in _PERSONAL_STORES):
        result = "nothing of this name was found"
    else:
        result = f"erased, except in {', '.join(kept)}" if kept else "erased"
    shown = {name: certificate[name] for name in ("id", "tenant", "asked_at", "pseudonym")}
    print_fields(shown | {"result": result})
    click.echo()
    rows = [[name, one["state"], f"{one['found']:,}", one["note"]] for name, one in stores.items()]
    print_table(_ERASURE_COLUMNS, rows)
