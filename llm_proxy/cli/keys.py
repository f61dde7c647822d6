"""`llm-proxy keys ...`: virtual keys, straight in the database; replicas hear of changes at once.

Invariants: a key's text is printed by the command that makes it and by no other; a fault is one line on
standard error and a non-zero exit; `--json` prints one JSON document.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from llm_proxy.admission import announce
from llm_proxy.cli.keys_table import table
from llm_proxy.cli.nearby import console, settings
from llm_proxy.cli.served import warn_of_unserved
from llm_proxy.database import DatabaseUnavailable
from llm_proxy.errors import Refused
from llm_proxy.identity import Actor, Deed, Registry, Rulings
from llm_proxy.identity.caller import Period
from llm_proxy.identity.keys import mint as minted
from llm_proxy.identity.keys_file import apply as apply_file
from llm_proxy.identity.keys_file import read as read_file
from llm_proxy.identity.opened import opened
from llm_proxy.identity.rules import KillKind
from llm_proxy.identity.spoken import key_document, kill_from, spec_from

Json = dict[str, Any]
ME = Actor("command line")
MOST_DAYS = 36_525
_BUDGET = re.compile(rf"\d+(?:\.\d+)?/(?:{'|'.join(get_args(Period))})", re.ASCII)


def _amounts(_: click.Context, __: click.Parameter, said: tuple[str, ...]) -> tuple[str, ...]:
    for text in said:
        if not _BUDGET.fullmatch(text):
            raise click.BadParameter(f"{text!r} is not USD/PERIOD, such as 5/day, 100/month or 1000/total.")
    return said


def _days(_: click.Context, __: click.Parameter, said: float | None) -> float | None:
    if said is not None and not 0 < said <= MOST_DAYS:
        raise click.BadParameter(f"expected days from 0 to {MOST_DAYS}.")
    return said


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_SPEC = [
    click.option("--tenant", help="The tenant it belongs to."),
    click.option("--agent", help="The one agent it acts for; '*' for any agent of the tenant."),
    click.option("--user", help="The one end user it acts for."),
    click.option("--model", "models", multiple=True, help="A model it may use, or a wildcard; repeatable."),
    click.option("--rpm", type=int, help="Requests a minute; 0 for no limit."),
    click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit."),
    click.option("--parallel", type=int, help="Requests at once; 0 for no limit."),
    click.option(
        "--budget",
        "budgets",
        multiple=True,
        metavar="USD/PERIOD",
        callback=_amounts,
        help="5/day, 100/month, 1000/total; repeatable.",
    ),
    click.option("--max-tokens-cap", type=int, help="Completion tokens a request may ask for at most."),
    click.option("--cache/--no-cache", default=None, help="Whether answers may come from the cache."),
    click.option("--expires-at", metavar="ISO8601", help="When it ends."),
    click.option("--tag", "tags", multiple=True, help="A tag of every call; repeatable; '' for none."),
    click.option(
        "--expires-in", type=float, metavar="DAYS", callback=_days, help="When it ends, counted from now."
    ),
]


def _spec_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SPEC):
        of = option(of)
    return of


@click.group()
def command() -> None:
    """Create, list, change, rotate and revoke virtual keys.

    Reads DATABASE_URL and LIMITS_REDIS_URL from the environment, .env or .keys/.
    """


@command.command()
@click.option("--name", required=True, help="What people call it; unique.")
@_spec_options
@_as_json
def create(*, as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Make a key and print it, this once."""
    warn_of_unserved(said["models"])
    _deed(lambda registry: registry.create(spec_from(_document(said)), ME), as_json=as_json)


@command.command("list")
@click.option("--tenant", help="Only this tenant's.")
@_as_json
def page(*, tenant: str | None, as_json: bool) -> None:
    """List keys, revoked ones too."""

    async def whole(registry: Registry, _: Rulings) -> list[Json]:
        found: list[Json] = []
        while part := await registry.page(tenant=tenant, after=found[-1]["name"] if found else ""):
            found += [key_document(one) for one in part]
        return found

    found = _run(whole)
    if as_json:
        return click.echo(json.dumps(found, indent=2))
    return console().print(table(found))


@command.command()
@click.argument("key")
@_as_json
def show(*, key: str, as_json: bool) -> None:
    """Show one key, by its id, name or prefix."""

    async def one(registry: Registry, _: Rulings) -> Json:
        return key_document(await registry.show(key))

    _print(_run(one), as_json=as_json)


@command.command()
@click.argument("key")
@click.option("--name", help="Another name.")
@_spec_options
@_as_json
def change(*, key: str, as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Change a key; what is not given stays."""
    warn_of_unserved(said["models"])

    async def changed(registry: Registry) -> Deed:
        before = await registry.show(key)
        return await registry.change(key, spec_from(_document(said), before.spec), ME)

    _deed(changed, as_json=as_json)


@command.command()
@click.argument("key")
@click.option(
    "--overlap",
    type=click.IntRange(0, 31_536_000),
    default=86_400,
    show_default=True,
    help="Seconds the old secret goes on working.",
)
@_as_json
def rotate(*, key: str, overlap: int, as_json: bool) -> None:
    """Give a key a new secret and print it, this once."""
    _deed(lambda registry: registry.rotate(key, ME, overlap=timedelta(seconds=overlap)), as_json=as_json)


@command.command()
@click.argument("key")
@_as_json
def revoke(*, key: str, as_json: bool) -> None:
    """End a key, everywhere within a second."""
    _deed(lambda registry: registry.revoke(key, ME), as_json=as_json)


@command.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_as_json
def apply(*, file: Path, as_json: bool) -> None:
    """Bring keys, limits and kill switches to what a keys.yaml says."""

    async def applied(registry: Registry, rulings: Rulings) -> Json:
        done = await apply_file(read_file(file), registry, rulings, ME)
        await _announce(done.epochs)
        made = [_told(deed) for deed in done.made]
        return {"changes": done.changes, "made": made, "missing": done.missing}

    done = _run(applied)
    if as_json:
        click.echo(json.dumps(done, indent=2))
    else:
        for line in done["changes"] or ["nothing to change"]:
            click.echo(line)
        for one in done["made"]:
            click.echo(f"{one['name']}: {one['key']}")
    for name in done["missing"]:
        click.echo(f"llm-proxy: no key is called {name}: what the file says of it does not hold", err=True)
    sys.exit(bool(done["missing"]))


@command.command("switch-off")
@click.argument("kind", type=click.Choice(get_args(KillKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@click.option("--reason", default="", help="For the record.")
def switch_off(*, kind: str, subject: str, tenant: str | None, reason: str) -> None:
    """Stop all calls of a key (by id, name or prefix), agent, tenant or model, everywhere within a second."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _switch(lambda rulings: rulings.throw(kill_from(said)[0], ME, reason=reason))


@command.command("switch-on")
@click.argument("kind", type=click.Choice(get_args(KillKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
def switch_on(*, kind: str, subject: str, tenant: str | None) -> None:
    """Let them pass again."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _switch(lambda rulings: rulings.lift(kill_from(said)[0], ME))


@command.command()
def mint() -> None:
    """Print a new secret, for a `key_file` of keys.yaml; no database knows it yet."""
    click.echo(minted().text)


def _switch(do: Callable[[Rulings], Awaitable[Mapping[str, int]]]) -> None:
    async def done(_: Registry, rulings: Rulings) -> None:
        await _announce(await do(rulings))

    _run(done)


def _document(said: dict[str, Any]) -> Json:
    """Options as a document: only what was given."""
    days = said.pop("expires_in", None)
    given: Json = {name: value for name, value in said.items() if value not in (None, ())}
    if days is not None:
        given["expires_at"] = datetime.now(UTC) + timedelta(days=days)
    if "models" in given:
        given["models"] = list(given["models"])
    if "tags" in given:
        given["tags"] = [tag for tag in given["tags"] if tag]
    if "budgets" in given:
        pairs = [text.partition("/") for text in given["budgets"]]
        given["budgets"] = [{"limit_usd": usd, "period": period} for usd, _, period in pairs]
    return given


def _deed(do: Callable[[Registry], Awaitable[Deed]], *, as_json: bool) -> None:
    async def done(registry: Registry, _: Rulings) -> Json:
        deed = await do(registry)
        await _announce(deed.epochs)
        return _told(deed)

    _print(_run(done), as_json=as_json)


def _told(deed: Deed) -> Json:
    secret = {"key": deed.minted.text} if deed.minted is not None else {}
    return key_document(deed.record) | secret


def _print(document: Json, *, as_json: bool) -> None:
    if as_json:
        return click.echo(json.dumps(document, indent=2))
    for name, value in document.items():
        if value not in (None, []):
            click.echo(f"{name:15} {json.dumps(value) if isinstance(value, list | dict) else value}")
    if "key" in document:
        click.echo("This is the only time the key is shown.", err=True)
    return None


async def _announce(epochs: Any) -> None:  # noqa: ANN401 -- a mapping of epochs
    found = settings()
    url, tls = found.limits_redis_url, found.tls_for(found.limits_redis_url)
    if epochs and url is not None and not await announce(url.get_secret_value(), epochs, tls=tls):
        click.echo("llm-proxy: the limits store is away; replicas learn of this from the database", err=True)


def _run(do: Callable[[Registry, Rulings], Awaitable[Any]]) -> Any:  # noqa: ANN401 -- what the command prints
    found = settings()
    url = found.database_url
    if url is None:
        click.echo(
            "llm-proxy: DATABASE_URL is not set and no stack runs in this folder; keys need a database",
            err=True,
        )
        sys.exit(2)

    async def connected() -> Any:  # noqa: ANN401 -- the same
        async with opened(url.get_secret_value(), found.tls_for(url)) as (registry, rulings):
            return await do(registry, rulings)

    try:
        return asyncio.run(connected())
    except Refused as refused:
        why = refused.__cause__
        reason = f" DATABASE_URL: {why.reason}." if isinstance(why, DatabaseUnavailable) else ""
        click.echo(f"llm-proxy: {refused.message}{reason}", err=True)
        sys.exit(1)
