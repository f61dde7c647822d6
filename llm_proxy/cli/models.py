"""`llm-proxy models`: what the gateway serves, at what price, and how it fares; `--check` calls each once.

Invariants: asks the running gateway, never LiteLLM's own health route; without `--check` no model is called;
`--json` prints nothing else; exit 1 when a checked model failed.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import quote

import click
import httpx

from llm_proxy.cli import nearby
from llm_proxy.cli.completion import complete_models
from llm_proxy.cli.printing import WRONG, Column, as_json_option, fail, print_json, print_table
from llm_proxy.json_access import Json

AT_ONCE = 4
PATIENCE_S = 75


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
    settings = nearby.settings()
    key = settings.admin_key or (None if check else settings.admin_read_key)
    if key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", WRONG)
    with nearby.gateway(settings, key, url, timeout_s=PATIENCE_S) as client:
        groups = [
            one
            for one in nearby.ask(client, "GET", "/admin/models")["data"]
            if not names or one["id"] in names
        ]
        if check:
            checked = [one for one in groups if not one["wildcard"]]
            with ThreadPoolExecutor(AT_ONCE) as several:
                results = list(several.map(partial(_check, client), [one["id"] for one in checked]))
            _show(results, as_json=as_json, table=_results_table)
            sys.exit(0 if all(one["ok"] for one in results) else 1)
    _show(groups, as_json=as_json, table=_groups_table)


def _check(client: httpx.Client, name: str) -> Json:
    try:
        return nearby.ask(client, "POST", f"/admin/models/{quote(name)}/test")
    except click.ClickException as fault:
        return {"id": name, "ok": False, "error": {"message": fault.message}}


def _show(found: list[Json], *, as_json: bool, table: Callable[[list[Json]], None]) -> None:
    if as_json:
        print_json(found)
    else:
        table(found)


def _groups_table(groups: list[Json]) -> None:
    titles = ("mode", "providers", "$/M in, out", "last ok", "failed, 5 min", "falls back to")
    rows: list[tuple[str, ...]] = []
    for one in groups:
        health = one["health"]
        prices = ", ".join(_prices(one, f"{way}_usd_per_million") for way in ("input", "output"))
        lately = f"{health['failures']} of {health['calls']}" if health["calls"] else "-"
        if health["last_failure_at"]:
            lately += f" ({health['last_failure_code']} {_time(health['last_failure_at'])})"
        rows.append((
            one["id"], one["mode"], ", ".join(one["providers"]), prices,
            _time(health["last_success_at"]), lately, ", ".join(one["fallbacks"]) or "-",
        ))  # fmt: skip
    print_table([Column("model", whole=True), *titles], rows)


def _time(moment: str | None) -> str:
    """The time of day, UTC."""
    return moment[11:19] if moment else "-"


def _prices(group: Json, name: str) -> str:
    """One price, or every one there is behind the group; `?` where nobody states one."""
    return " / ".join(dict.fromkeys(one[name] or "?" for one in group["deployments"])) or "?"


def _results_table(results: list[Json]) -> None:
    rows: list[tuple[str, ...]] = []
    for one in results:
        error: Json = one["error"] or {}
        said = " ".join(str(error[name]) for name in ("status", "code", "message") if error.get(name))
        latency = f"{one['latency_ms']:.0f}" if "latency_ms" in one else "-"
        cost, provider = one.get("cost_usd") or "?", one.get("provider") or "-"
        rows.append((one["id"], "ok" if one["ok"] else "failed", provider, latency, cost, said))
    numbers = (Column("ms", number=True), Column("cost USD", number=True))
    print_table([Column("model", whole=True), "", "provider", *numbers, "error"], rows)
