"""`llm-proxy limits`, `explain`, `simulate`: limit policies and what they do to one call or to recorded ones.

Invariants: policies are read and written in the database, and replicas are told at once; dropping one
asks first. `explain` and `simulate` ask the running gateway, change nothing and call no model; `explain`
exits 1 when the call would be rejected.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast, get_args

import click
import httpx
import yaml
from pydantic import SecretStr

from llm_proxy.cli import context
from llm_proxy.cli.context import complete_keys, complete_models, fetch_if_running
from llm_proxy.cli.database import current_actor, publish_change, run_with_repositories
from llm_proxy.cli.limit_tables import (
    BUDGET_EXAMPLES,
    BUDGET_FORM,
    format_limits,
    parse_budget,
    print_limit_status,
)
from llm_proxy.cli.printing import (
    EXIT_FAILED,
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
from llm_proxy.identity import KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import parse_policy, parse_policy_target, policy_document
from llm_proxy.identity.caller import OnStoreFailure, PolicyMode, ScopeKind
from llm_proxy.json_access import Json
from llm_proxy.settings import Settings

_POLICY_FIELDS = ("scope", "tenant", "subject", "model")
_POLICY_COLUMNS = ("scope", "tenant", "subject", "model", Column("limits", unbroken=True), "mode", "idle")
_POLICY_OPTIONS = [
    click.option("--scope", required=True, type=click.Choice(get_args(ScopeKind)), help="What it counts by."),
    click.option("--tenant", help="Of this tenant; of every tenant by default."),
    click.option("--subject", help="The key, agent, user or provider; every one by default."),
    click.option("--model", help="The model group, or a wildcard.", shell_complete=complete_models),
]


def _policy_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_POLICY_OPTIONS):
        of = option(of)
    return of


@click.group(invoke_without_command=True)
@as_json_option
@click.pass_context
def limits(context: click.Context, /, *, as_json: bool) -> None:
    """List, set and drop rules of limits and budgets; without a subcommand, list them.

    A key's own limits are the key's: `llm-proxy keys change`. Reads DATABASE_URL and LIMITS_REDIS_URL from
    the environment, .env or .keys/.
    """
    if context.invoked_subcommand is not None:
        return

    async def every(_: KeyRepository, rulings: PolicyRepository) -> list[Json]:
        return [policy_document(rule) for rule in await rulings.list_policies()]

    found = _add_idle(run_with_repositories(every))
    if as_json:
        print_json(found)
    else:
        print_policies(found)


@limits.command("set")
@_policy_options
@click.option("--rpm", type=int, help="Requests a minute; 0 for no limit.")
@click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit.")
@click.option("--parallel", type=int, help="Requests at once; 0 for no limit.")
@click.option(
    "--budget", "budgets", multiple=True, metavar=BUDGET_FORM, help=f"{BUDGET_EXAMPLES}; repeatable."
)
@click.option("--mode", type=click.Choice(get_args(PolicyMode)), help="`shadow` only watches and tells.")
@click.option(
    "--on-store-failure", type=click.Choice(get_args(OnStoreFailure)), help="While the limits store is away."
)
@as_json_option
def set_policy(*, as_json: bool, budgets: tuple[str, ...], **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Lay down the rule of a scope and subject, in place of the one there."""
    documents = [parse_budget(text) for text in budgets]
    if None in documents:
        wrong = budgets[documents.index(None)]
        raise click.BadParameter(
            f"{wrong!r} is not {BUDGET_FORM}, such as {BUDGET_EXAMPLES}.", param_hint="'--budget'"
        )

    async def laid(_: KeyRepository, rulings: PolicyRepository) -> Json:
        rule = parse_policy(_set_fields(said) | {"budgets": documents})
        await publish_change(await rulings.upsert(rule, current_actor()))
        return policy_document(rule)

    [document] = _add_idle([run_with_repositories(laid)])
    if document["idle"]:
        warn(f"this rule covers no call: {document['idle']}")
    if as_json:
        print_json(document)
    else:
        print_fields(document)


@limits.command("drop")
@_policy_options
@as_json_option
@yes_option
def drop_policy(*, as_json: bool, yes: bool, **said: str | None) -> None:
    """Take the rule of a scope and subject away."""
    confirm(f"Take away the rule of {' '.join(_set_fields(said).values())}?", yes=yes)

    async def dropped(_: KeyRepository, rulings: PolicyRepository) -> None:
        await publish_change(await rulings.delete(parse_policy_target(_set_fields(said)), current_actor()))

    run_with_repositories(dropped)
    if as_json:
        print_json({"dropped": True})
    else:
        click.echo("the rule is gone")


def print_policies(rules: Iterable[Json]) -> None:
    """One line a rule, more where its limits need them."""
    print_table(_POLICY_COLUMNS, [_policy_row(one) for one in rules])


def _add_idle(rules: Iterable[Json]) -> list[Json]:
    """The rules, each with why it covers no call; null where it may cover some, or no gateway runs."""
    told = (fetch_if_running("/admin/limits") or {"data": []})["data"]
    idle = {tuple(one[name] for name in _POLICY_FIELDS): one["idle"] for one in told}
    return [rule | {"idle": idle.get(tuple(rule[name] for name in _POLICY_FIELDS))} for rule in rules]


def _set_fields(said: Mapping[str, Any]) -> Json:
    return {name: value for name, value in said.items() if value is not None}


def _policy_row(one: Json) -> tuple[str, ...]:
    named = (one[name] if one[name] is not None else "" for name in ("tenant", "subject", "model"))
    return one["scope"], *named, format_limits(one), one["mode"] or "", one.get("idle") or ""


EXPLAIN_TIMEOUT_S = 15


@click.command
@click.option("--key", help="As this key, by id, name or prefix.", shell_complete=complete_keys)
@click.option("--tenant", help="Without --key: for this tenant, as a trusted service.")
@click.option("--agent", help="For this agent.")
@click.option("--user", help="For this end user.")
@click.option("--model", required=True, help="The model that is called.", shell_complete=complete_models)
@click.option("--prompt", default="Hello", show_default=True, help="What is asked; its length counts.")
@click.option("--max-tokens", type=click.IntRange(1), help="The longest answer that is asked for.")
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def explain(*, key: str | None, as_json: bool, url: str | None, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Tell whether a call would be let in, and where it would stand at each limit and budget.

    With --key it reads LLM_PROXY__ADMIN_KEY, else LLM_PROXY__INTERNAL_API_KEY, from the environment, .env or
    .keys/.
    """
    settings = context.load_settings()
    body: Json = {"model": said["model"], "messages": [{"role": "user", "content": said["prompt"]}]}
    if said["max_tokens"] is not None:
        body["max_tokens"] = said["max_tokens"]
    path = "/v1/explain" if key is None else str(httpx.URL("/v1/explain", params={"key": key}))
    with context.gateway_client(
        settings, _key_for(settings, key), url, timeout_s=EXPLAIN_TIMEOUT_S
    ) as client:
        named = {f"x-{name}-id": said[name] for name in ("tenant", "agent", "user") if said[name]}
        client.headers.update(named)
        told = context.request_json(client, "POST", path, body)
    if as_json:
        print_json(told)
    else:
        _print_decision(told)
    sys.exit(0 if told["verdict"] == "admitted" else EXIT_FAILED)


def _key_for(settings: Settings, key: str | None) -> SecretStr:
    if key is not None:
        if settings.admin_key is None:
            fail("LLM_PROXY__ADMIN_KEY is not set", EXIT_WRONG_INPUT)
        return settings.admin_key
    if not settings.internal_keys:
        fail("LLM_PROXY__INTERNAL_API_KEY is not set; --key NAME explains as a key", EXIT_WRONG_INPUT)
    return SecretStr(settings.internal_keys[0])


def _print_decision(told: Json) -> None:
    refusal: Json = told.get("refusal") or {}
    print_fields(
        {
            "verdict": told["verdict"],
            "why": refusal.get("message"),
            "status": refusal.get("status"),
            "code": refusal.get("code"),
            "retry after s": refusal.get("retry_after_s"),
            "model": told.get("model"),
            "group": told.get("group"),
        }
    )
    if told.get("limits"):
        click.echo()
        print_limit_status(told["limits"])


SIMULATE_TIMEOUT_S = 120


@click.command(context_settings={"show_default": True})
@click.option("--since", default="24h", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", default="now", help="The same.")
@as_json_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
@click.argument("rules", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
def simulate(*, since: str, until: str, as_json: bool, url: str | None, rules: Path) -> None:
    """Replay recorded calls against the changes in RULES: how many would be refused, and what they cost.

    RULES is YAML (- for standard input): rules, keys, default_models, prices, as POST /admin/simulate takes
    them. Reads LLM_PROXY__ADMIN_KEY or LLM_PROXY__ADMIN_READ_KEY from the environment, .env or .keys/.
    """
    asked = _read_changes(rules) | {"since": since, "until": until}
    settings = context.load_settings()
    key = settings.admin_read_key or settings.admin_key
    if key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", EXIT_WRONG_INPUT)
    with context.gateway_client(settings, key, url, timeout_s=SIMULATE_TIMEOUT_S) as client:
        found = context.request_json(client, "POST", "/admin/simulate", asked)
    if as_json:
        print_json(found)
    else:
        _show_simulation(found)


def _read_changes(file: Path) -> Json:
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    try:
        document: object = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        fail(f"{file}: not YAML: {' '.join(str(problem).split())[:200]}", EXIT_WRONG_INPUT)
    if not isinstance(document, dict):
        fail(f"{file}: expected rules, keys, default_models or prices", EXIT_WRONG_INPUT)
    return cast("Json", document)


def _show_simulation(found: Json) -> None:
    refusals, whose = found.pop("refused_by"), found.pop("refused_callers")
    told = found.pop("not_replayed")
    print_fields(found)
    for rows, names in (
        (refusals, ("code", "scope", "subject", "kind")),
        (whose, ("key", "tenant", "agent", "user")),
    ):
        if rows:
            click.echo()
            columns: list[Column | str] = [
                *names,
                Column("calls", number=True),
                Column("first", unbroken=True),
            ]
            print_table(columns, [_simulation_row(one, names) for one in rows])
    click.echo(f"\n{told['note']} In it: {told['refused_then_in_sample']}.")


def _simulation_row(one: Json, names: tuple[str, ...]) -> list[str]:
    return [*(one[name] or "-" for name in names), str(one["calls"]), one["first_at"][:19]]
