"""`llm-proxy limits`: the rules of limits and budgets that lie on tenants, agents, users and models.

Invariants: rules are read and written straight in the database, replicas hear of changes at once; taking a
rule away asks first.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import click

from llm_proxy.cli.budgets import EXAMPLES, FORM, parsed
from llm_proxy.cli.completion import complete_models
from llm_proxy.cli.database import announced, operator, with_registry
from llm_proxy.cli.keys_table import limits_text
from llm_proxy.cli.nearby import told_by_gateway
from llm_proxy.cli.printing import (
    Column,
    as_json_option,
    confirm,
    print_fields,
    print_json,
    print_table,
    warn,
    yes_option,
)
from llm_proxy.identity import Registry, Rulings
from llm_proxy.identity.caller import Mode, OnStoreFailure, ScopeKind
from llm_proxy.identity.spoken import rule_document, rule_from, rule_named
from llm_proxy.json_access import Json

_NAMES = ("scope", "tenant", "subject", "model")
_COLUMNS = ("scope", "tenant", "subject", "model", Column("limits", whole=True), "mode", "idle")
_NAMING = [
    click.option("--scope", required=True, type=click.Choice(get_args(ScopeKind)), help="What it counts by."),
    click.option("--tenant", help="Of this tenant; of every tenant by default."),
    click.option("--subject", help="The key, agent, user or provider; every one by default."),
    click.option("--model", help="The model group, or a wildcard.", shell_complete=complete_models),
]


def _naming_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_NAMING):
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

    async def every(_: Registry, rulings: Rulings) -> list[Json]:
        return [rule_document(rule) for rule in await rulings.rules()]

    found = _with_idle(with_registry(every))
    if as_json:
        print_json(found)
    else:
        print_rules(found)


@limits.command("set")
@_naming_options
@click.option("--rpm", type=int, help="Requests a minute; 0 for no limit.")
@click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit.")
@click.option("--parallel", type=int, help="Requests at once; 0 for no limit.")
@click.option("--budget", "budgets", multiple=True, metavar=FORM, help=f"{EXAMPLES}; repeatable.")
@click.option("--mode", type=click.Choice(get_args(Mode)), help="`shadow` only watches and tells.")
@click.option(
    "--on-store-failure", type=click.Choice(get_args(OnStoreFailure)), help="While the limits store is away."
)
@as_json_option
def set_policy(*, as_json: bool, budgets: tuple[str, ...], **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Lay down the rule of a scope and subject, in place of the one there."""
    documents = [parsed(text) for text in budgets]
    if None in documents:
        wrong = budgets[documents.index(None)]
        raise click.BadParameter(f"{wrong!r} is not {FORM}, such as {EXAMPLES}.", param_hint="'--budget'")

    async def laid(_: Registry, rulings: Rulings) -> Json:
        rule = rule_from(_given(said) | {"budgets": documents})
        await announced(await rulings.set_rule(rule, operator()))
        return rule_document(rule)

    [document] = _with_idle([with_registry(laid)])
    if document["idle"]:
        warn(f"this rule covers no call: {document['idle']}")
    if as_json:
        print_json(document)
    else:
        print_fields(document)


@limits.command("drop")
@_naming_options
@as_json_option
@yes_option
def drop_policy(*, as_json: bool, yes: bool, **said: str | None) -> None:
    """Take the rule of a scope and subject away."""
    confirm(f"Take away the rule of {' '.join(_given(said).values())}?", yes=yes)

    async def dropped(_: Registry, rulings: Rulings) -> None:
        await announced(await rulings.drop_rule(rule_named(_given(said)), operator()))

    with_registry(dropped)
    if as_json:
        print_json({"dropped": True})
    else:
        click.echo("the rule is gone")


def print_rules(rules: Iterable[Json]) -> None:
    """One line a rule, more where its limits need them."""
    print_table(_COLUMNS, [_row(one) for one in rules])


def _with_idle(rules: Iterable[Json]) -> list[Json]:
    """The rules, each with why it covers no call; null where it may cover some, or no gateway runs."""
    told = (told_by_gateway("/admin/limits") or {"data": []})["data"]
    idle = {tuple(one[name] for name in _NAMES): one["idle"] for one in told}
    return [rule | {"idle": idle.get(tuple(rule[name] for name in _NAMES))} for rule in rules]


def _given(said: Mapping[str, Any]) -> Json:
    return {name: value for name, value in said.items() if value is not None}


def _row(one: Json) -> tuple[str, ...]:
    named = (one[name] if one[name] is not None else "" for name in ("tenant", "subject", "model"))
    return one["scope"], *named, limits_text(one), one["mode"] or "", one.get("idle") or ""
