"""`llm-proxy status`, `models`, `cache` and `erase`: commands that query the running gateway.

Invariants: `models --check` is the only one that calls models, each group once. Exit 1 when requests are not
served, a checked model failed, or something was not deleted; exit 3 when no gateway answers.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial

import click
import httpx

from llm_proxy.cli.context import (
    admin_client,
    admin_key_of,
    complete_models,
    gateway_client,
    load_settings,
    request_json,
    unanswered,
    url_option,
)
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    Column,
    CommandGroup,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_json,
    print_result,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.json_access import Json
from llm_proxy.path_names import api_segment

STATUS_TIMEOUT_S = 10
_COMPONENT_COLUMNS = ("part", "state", Column("for", number=True), "detail")


@click.command
@as_json_option
@url_option
def status(*, as_json: bool, url: str | None) -> None:
    """Show whether requests are served, and each component's state: sidecars, stores, workers.

    Reads LLM_PROXY__ADMIN_READ_KEY or LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/; without
    either only the verdict is shown.
    """
    settings = load_settings()
    with gateway_client(settings, admin_key_of(settings), url, timeout_s=STATUS_TIMEOUT_S) as client:
        base = str(client.base_url).rstrip("/")
        try:
            response = client.get("/health")
            health: Json = response.json()
        except (httpx.HTTPError, ValueError) as fault:
            fail(unanswered(base, fault), EXIT_UNAVAILABLE)
    components: list[Json] = health.pop("parts", [])
    if as_json:
        print_json({"url": base, **health, "parts": components})
    else:
        print_fields({"gateway": base, **health})
        _print_components(components)
    sys.exit(0 if response.status_code == 200 else EXIT_FAILED)


def _print_components(components: list[Json]) -> None:
    if not components:
        warn("components need an admin key: LLM_PROXY__ADMIN_READ_KEY is not set, or not the gateway's")
        return
    click.echo()
    rows = [(one["part"], one["state"], f"{one['since_s']:.0f} s", one["detail"]) for one in components]
    print_table(_COMPONENT_COLUMNS, rows)


CHECKS_AT_ONCE = 4
MODELS_TIMEOUT_S = 75


@click.command
@click.option("--check", is_flag=True, help="Call each group once with a few tokens; this can cost money.")
@as_json_option
@url_option
@click.argument("names", nargs=-1, shell_complete=complete_models)
def models(*, check: bool, as_json: bool, url: str | None, names: tuple[str, ...]) -> None:
    """List model groups, or those of NAMES: providers, prices, health from live traffic.

    Prices are in dollars per million tokens, or of an image, a second of audio, a character, a search.

    Reads LLM_PROXY__ADMIN_KEY (to list, LLM_PROXY__ADMIN_READ_KEY is enough) from the environment, .env or
    .keys/.
    """
    with admin_client(url, timeout_s=MODELS_TIMEOUT_S, read_only=not check) as client:
        listed = request_json(client, "GET", "/admin/models")["data"]
        groups = [one for one in listed if not names or one["id"] in names]
        unknown = sorted(set(names) - {one["id"] for one in groups})
        if unknown:
            fail(f"no model group is named {', '.join(map(repr, unknown))}; `llm-proxy models` lists them")
        if not check:
            print_result(groups, _print_groups, as_json=as_json)
            return
        with ThreadPoolExecutor(CHECKS_AT_ONCE) as executor:
            probed = [one["id"] for one in groups if not one["wildcard"]]
            results = list(executor.map(partial(_probe_model, client), probed))
    print_result(results, _print_probe_results, as_json=as_json)
    sys.exit(EXIT_FAILED if any(one["ok"] is False for one in results) else 0)


def _probe_model(client: httpx.Client, name: str) -> Json:
    try:
        return request_json(client, "POST", f"/admin/models/{api_segment(name)}/test")
    except click.ClickException as fault:
        return {"id": name, "ok": False, "error": {"message": fault.message}}


def _print_groups(groups: list[Json]) -> None:
    titles = ("mode", "providers", "$/M in, out", "last ok (UTC)", "failed, 5 min", "falls back to")
    rows: list[tuple[str, ...]] = []
    for one in groups:
        health = one["health"]
        prices = ", ".join(prices_text(one, f"{way}_usd_per_million") for way in ("input", "output"))
        prices = _unit_prices_text(one) or prices
        answered, recent = _time_text(health["last_success_at"]), "-"
        if health["calls"] is None:  # the database is away
            answered = recent = "?"
        elif health["calls"]:
            recent = f"{health['failures']} of {health['calls']}"
        if health["last_failure_at"]:
            recent += f" ({health['last_failure_code']} {_time_text(health['last_failure_at'])})"
        rows.append((
            one["id"], one["mode"], ", ".join(one["providers"]), prices,
            answered, recent, ", ".join(one["fallbacks"]) or "-",
        ))  # fmt: skip
    print_table([Column("model", unbroken=True), *titles], rows)


def _time_text(time: str | None) -> str:
    """Returns the time of day in UTC of a time in ISO 8601."""
    return time[11:19] if time else "-"


def prices_text(group: Json, name: str) -> str:
    """Returns the different prices of a group's deployments; `?` for an unknown one."""
    shown = (one[name] or _image_tokens_text(one, name) or "?" for one in group["deployments"])
    return " / ".join(dict.fromkeys(shown)) or "?"


def _image_tokens_text(deployment: Json, name: str) -> str:
    """Returns the price of a million tokens of images that are made, for answers of nothing else."""
    price = deployment["unit_prices_usd"].get("completion_image_token")
    if price is None or not name.startswith("output_"):
        return ""
    return f"{(Decimal(price) * 1_000_000).normalize():f} (images)"


_SHOWN_UNITS = {
    "image": "an image",
    "pixel": "a pixel",
    "second": "a second",
    "character": "a character",
    "query": "a search",
}
"""A price's name in `/admin/models` -> its unit with its article, for people."""


def _unit_prices_text(group: Json) -> str:
    """Returns the prices of an image, a second, a character or a search, as ranges; empty without any."""
    found: dict[str, list[Decimal]] = {}
    for deployment in group["deployments"]:
        for name, price in deployment["unit_prices_usd"].items():
            if (unit := _SHOWN_UNITS.get(name.partition(" ")[0])) is not None:
                found.setdefault(unit, []).append(Decimal(price))
    ranges = ((unit, min(prices), max(prices)) for unit, prices in found.items())
    return ", ".join(
        f"${low:f} {unit}" if low == high else f"${low:f} to ${high:f} {unit}" for unit, low, high in ranges
    )


def _print_probe_results(results: list[Json]) -> None:
    rows: list[tuple[str, ...]] = []
    for one in results:
        error: Json = one["error"] or {}
        head = " ".join(str(error[name]) for name in ("status", "code") if error.get(name))
        text = ": ".join(part for part in (head, error.get("cause") or error.get("message")) if part)
        latency = f"{one['latency_ms']:.0f}" if one.get("latency_ms") is not None else "-"
        cost, provider = one.get("cost_usd") or "?", one.get("provider") or "-"
        state = "not tested" if one["ok"] is None else "ok" if one["ok"] else "failed"
        rows.append((one["id"], state, provider, latency, "-" if one["ok"] is None else cost, text))
    numbers = (Column("ms", number=True), Column("cost USD", number=True))
    print_table([Column("model", unbroken=True), "", "provider", *numbers, "error"], rows)
    for one in results:
        if one["ok"] is False and one.get("request_id"):
            click.echo(f"{one['id']}: `llm-proxy requests {one['request_id']}` shows each attempt")


PURGE_TIMEOUT_S = 75


@click.group(cls=CommandGroup)
def cache() -> None:
    """Manage the response cache."""


@cache.command("purge")
@click.option("--tenant", help="Only responses to this tenant.")
@click.option("--model", help="Only responses of this model group.", shell_complete=complete_models)
@as_json_option
@yes_option
@url_option
def purge_cache(*, tenant: str | None, model: str | None, as_json: bool, yes: bool, url: str | None) -> None:
    """Delete cached responses: all, or those of a tenant, a model, or both.

    Reads LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/.
    """
    filters = {name: value for name, value in (("tenant", tenant), ("model", model)) if value is not None}
    with admin_client(url, timeout_s=PURGE_TIMEOUT_S) as client:
        described = " and ".join(f"{name} {value}" for name, value in filters.items() if value)
        confirm(f"Delete the cached responses of {described or 'everything'}?", yes=yes)
        purged = request_json(client, "DELETE", str(httpx.URL("/admin/cache", params=filters)))
    print_result(purged, lambda one: click.echo(f"{one['purged']} cached responses deleted"), as_json=as_json)


ERASE_TIMEOUT_S = 600
_ERASURE_COLUMNS = (Column("store"), Column("state"), Column("found", number=True), Column("note"))
_PERSONAL_STORES = (
    "payloads", "requests", "roll-ups", "revoked keys", "refusals", "console sessions", "notifications",
    "old audit log", "rejected records", "langfuse",
)  # fmt: skip


@click.group(cls=CommandGroup)
def erase() -> None:
    """Erase a person's text and name."""


@erase.command("user")
@click.argument("name")
@click.option("--tenant", required=True, help="Of this tenant; empty: of calls without a tenant.")
@as_json_option
@yes_option
@url_option
def erase_user(*, name: str, tenant: str, as_json: bool, yes: bool, url: str | None) -> None:
    """Erase all prompts and responses of a tenant's user NAME, and the name itself.

    Repeat the command to continue an incomplete erasure. Reads LLM_PROXY__ADMIN_KEY from the environment,
    .env or .keys/.
    """
    whose = f"of tenant {tenant}" if tenant else "without a tenant"
    confirm(f"Erase the user {name} {whose} for good?", yes=yes)
    certificate = _post("/admin/erasures", url, {"tenant": tenant, "user": name})
    print_result(certificate, _print_certificate, as_json=as_json)
    sys.exit(0 if certificate["complete"] else EXIT_FAILED)


@erase.command("replay")
@as_json_option
@url_option
def replay_erasures(*, as_json: bool, url: str | None) -> None:
    """Erase again the people that a backup restored, and continue incomplete erasures.

    The gateway does the same at its start and every ten minutes.
    """
    certificates = _post("/admin/erasures/replay", url)["data"]
    print_result(certificates, _print_certificates, as_json=as_json)
    sys.exit(0 if all(one["complete"] for one in certificates) else EXIT_FAILED)


def _post(path: str, url: str | None, body: dict[str, str] | None = None) -> Json:
    with admin_client(url, timeout_s=ERASE_TIMEOUT_S) as client:
        return request_json(client, "POST", path, body)


def _print_certificates(certificates: list[Json]) -> None:
    if not certificates:
        click.echo("no erased person was restored, and no erasure is incomplete")
    for one in certificates:
        _print_certificate(one)


def _print_certificate(certificate: Json) -> None:
    stores: dict[str, Json] = certificate["stores"]
    kept = [name for name, one in stores.items() if one["state"] == "kept"]
    if not certificate["complete"]:
        result = "NOT YET ERASED: repeat the command, or wait for the gateway, which continues by itself"
    elif not any(stores.get(name, {}).get("found") for name in _PERSONAL_STORES):
        result = "nothing of this name was found"
    else:
        result = f"erased, except in {', '.join(kept)}" if kept else "erased"
    shown = {name: certificate[name] for name in ("id", "tenant", "asked_at", "pseudonym")}
    print_fields(shown | {"result": result})
    click.echo()
    rows = [[name, one["state"], f"{one['found']:,}", one["note"]] for name, one in stores.items()]
    print_table(_ERASURE_COLUMNS, rows)
