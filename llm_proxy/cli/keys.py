"""`llm-proxy keys ...`: virtual keys, straight in the database; replicas hear of changes at once.

Invariants: a key's text is printed by the command that makes it and by no other; what cannot be taken back
asks first; `--json` prints one JSON document.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from llm_proxy.cli.context import complete_keys, complete_models, told_by_gateway, warn_of_unserved
from llm_proxy.cli.database import announced, operator, with_pool, with_registry
from llm_proxy.cli.limit_tables import EXAMPLES, FORM, parsed, print_keys, print_standings
from llm_proxy.cli.limits import print_rules
from llm_proxy.cli.printing import (
    FAILED,
    as_json_option,
    confirm,
    print_fields,
    print_json,
    warn,
    yes_option,
)
from llm_proxy.identity import Deed, Raises, Registry, Rulings
from llm_proxy.identity.admin_documents import key_document, kill_from, raise_from, spec_from
from llm_proxy.identity.keys_file import apply as apply_file
from llm_proxy.identity.keys_file import read as read_file
from llm_proxy.identity.policies import KillKind
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.virtual_keys import mint
from llm_proxy.json_access import Json

MOST_DAYS = 36_525
NONE = "none"
_UNSET = {
    "tenant": "tenant",
    "agent": "agent",
    "user": "user",
    "model": "models",
    "tag": "tags",
    "rpm": "rpm",
    "tpm": "tpm",
    "parallel": "parallel",
    "budget": "budgets",
    "max-tokens-cap": "max_tokens_cap",
    "expiry": "expires_at",
}
"""What `--unset` takes, and the field of the document that it empties."""


def _amounts(_: click.Context, __: click.Parameter, said: tuple[str, ...]) -> tuple[str, ...]:
    for text in said:
        if said != (NONE,) and parsed(text) is None:
            raise click.BadParameter(f"{text!r} is not {FORM}, such as {EXAMPLES}, or `none` alone.")
    return said


def _days(_: click.Context, __: click.Parameter, said: float | None) -> float | None:
    if said is not None and not 0 < said <= MOST_DAYS:
        raise click.BadParameter(f"expected days from 0 to {MOST_DAYS}.")
    return said


_SPEC = [
    click.option("--tenant", help="The tenant it belongs to."),
    click.option("--agent", help="The one agent it acts for; '*' for any agent of the tenant."),
    click.option("--user", help="The one end user it acts for."),
    click.option(
        "--model",
        "models",
        multiple=True,
        shell_complete=complete_models,
        help="A model it may use, or a wildcard; repeatable.",
    ),
    click.option("--rpm", type=int, help="Requests a minute; 0 for no limit."),
    click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit."),
    click.option("--parallel", type=int, help="Requests at once; 0 for no limit."),
    click.option(
        "--budget",
        "budgets",
        multiple=True,
        metavar=FORM,
        callback=_amounts,
        help=f"{EXAMPLES}; repeatable. `none` takes all away.",
    ),
    click.option("--max-tokens-cap", type=int, help="Completion tokens a request may ask for at most."),
    click.option("--cache/--no-cache", default=None, help="Whether answers may come from the cache."),
    click.option("--expires-at", metavar="ISO8601", help="When it ends; `none` for never."),
    click.option("--tag", "tags", multiple=True, help="A tag of every call; repeatable."),
    click.option(
        "--expires-in", type=float, metavar="DAYS", callback=_days, help="When it ends, counted from now."
    ),
]


def _spec_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SPEC):
        of = option(of)
    return of


@click.group()
def keys() -> None:
    """Create, list, change, rotate and revoke virtual keys.

    Reads DATABASE_URL and LIMITS_REDIS_URL from the environment, .env or .keys/.
    """


@keys.command("create")
@click.option("--name", required=True, help="What people call it; unique.")
@_spec_options
@as_json_option
def create_key(*, as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Make a key and print it, this once."""
    warn_of_unserved(said["models"])
    _deed(lambda registry: registry.create(spec_from(_document(said)), operator()), as_json=as_json)


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_keys(*, tenant: str | None, as_json: bool) -> None:
    """List keys, revoked ones too."""

    async def whole(registry: Registry, _: Rulings) -> list[Json]:
        found: list[Json] = []
        while part := await registry.page(tenant=tenant, after=found[-1]["name"] if found else ""):
            found += [key_document(one) for one in part]
        return found

    found = with_registry(whole)
    if as_json:
        print_json(found)
    else:
        print_keys(found)


@keys.command("show")
@click.argument("key", shell_complete=complete_keys)
@as_json_option
def show_key(*, key: str, as_json: bool) -> None:
    """Show one key, by its id, name or prefix, with what it spent and the rules on it.

    The running gateway tells of these; with LLM_PROXY__ADMIN_KEY or LLM_PROXY__ADMIN_READ_KEY it is asked.
    """

    async def one(registry: Registry, _: Rulings) -> Json:
        return key_document(await registry.show(key))

    found = with_registry(one)
    standing = told_by_gateway(f"/admin/keys/{found['id']}")
    if as_json:
        print_json({**found, **{name: standing and standing[name] for name in ("limits", "rules")}})
        return
    print_fields(found)
    if standing is None:
        warn("no gateway tells where the key stands at its limits")
        return
    for rows, show_rows in ((standing["limits"], print_standings), (standing["rules"], print_rules)):
        if rows:
            click.echo()
            show_rows(rows)


@keys.command("change")
@click.argument("key", shell_complete=complete_keys)
@click.option("--name", help="Another name.")
@_spec_options
@click.option(
    "--unset",
    multiple=True,
    type=click.Choice(list(_UNSET)),
    help="Take a limit, a binding or an end away; repeatable.",
)
@as_json_option
def change_key(*, key: str, unset: tuple[str, ...], as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Change a key; what is not given stays."""
    taken = {_UNSET[name]: None for name in unset}
    document = _document(said)
    both = next((name for name in unset if _UNSET[name] in document), None)
    if both is not None:
        raise click.UsageError(f"--unset {both} and a value for it exclude each other.")
    warn_of_unserved(said["models"])

    _deed(lambda registry: registry.change(key, document | taken, operator()), as_json=as_json)


@keys.command("rotate")
@click.argument("key", shell_complete=complete_keys)
@click.option(
    "--overlap",
    type=click.IntRange(0, 31_536_000),
    default=86_400,
    show_default=True,
    help="Seconds the old secret goes on working.",
)
@as_json_option
@yes_option
def rotate_key(*, key: str, overlap: int, as_json: bool, yes: bool) -> None:
    """Give a key a new secret and print it, this once."""
    if overlap == 0:
        confirm(f"End the secrets that the key {key} has now, at once?", yes=yes)
    _deed(
        lambda registry: registry.rotate(key, operator(), overlap=timedelta(seconds=overlap)),
        as_json=as_json,
    )


@keys.command("raise")
@click.argument("key", shell_complete=complete_keys)
@click.option("--rpm", type=int, help="Requests a minute; 0 for no limit.")
@click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit.")
@click.option("--parallel", type=int, help="Requests at once; 0 for no limit.")
@click.option(
    "--budget", "budgets", multiple=True, metavar=FORM, callback=_amounts, help=f"{EXAMPLES}; repeatable."
)
@click.option("--until", metavar="ISO8601", help="When it ends; UTC without an offset.")
@click.option("--days", type=float, callback=_days, help="When it ends, counted from now.")
@click.option("--end", is_flag=True, help="End the raise that runs, now.")
@as_json_option
def raise_key(*, key: str, days: float | None, end: bool, as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Raise a key's own limits and budgets until a time; they come back by themselves."""
    document = _document(said)
    if end and (document or days):
        raise click.UsageError("--end stands alone.")
    if days is not None:
        document["until"] = datetime.now(UTC) + timedelta(days=days)

    async def done(pool: Pool) -> Deed:
        if end:
            return await Raises(pool).end(key, operator())
        return await Raises(pool).begin(key, raise_from(document), operator())

    _done(done, as_json=as_json)


@keys.command("revoke")
@click.argument("key", shell_complete=complete_keys)
@as_json_option
@yes_option
def revoke_key(*, key: str, as_json: bool, yes: bool) -> None:
    """End a key for good, everywhere within a second."""
    confirm(f"Revoke the key {key} for good?", yes=yes)
    _deed(lambda registry: registry.revoke(key, operator()), as_json=as_json)


@keys.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def apply_keys_file(*, file: Path, as_json: bool) -> None:
    """Bring keys, limits and kill switches to what a keys.yaml says."""

    async def applied(registry: Registry, rulings: Rulings) -> Json:
        done = await apply_file(read_file(file), registry, rulings, operator())
        await announced(done.epochs)
        made = [_told(deed) for deed in done.made]
        return {"changes": done.changes, "made": made, "missing": done.missing}

    done = with_registry(applied)
    if as_json:
        print_json(done)
    else:
        for line in done["changes"] or ["nothing to change"]:
            click.echo(line)
        for one in (made for made in done["made"] if "key" in made):
            click.echo(f"{one['name']}: {one['key']}")
    for fault in done["missing"]:
        warn(fault)
    sys.exit(FAILED if done["missing"] else 0)


@keys.command("switch-off")
@click.argument("kind", type=click.Choice(get_args(KillKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@click.option("--reason", default="", help="For the record.")
@as_json_option
def switch_off(*, kind: str, subject: str, tenant: str | None, reason: str, as_json: bool) -> None:
    """Stop all calls of a key (by id, name or prefix), agent, tenant or model, everywhere within a second."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _switch(lambda rulings: rulings.throw(kill_from(said)[0], operator(), reason=reason))
    _say_switched(said | {"switched": "off"}, as_json=as_json)


@keys.command("switch-on")
@click.argument("kind", type=click.Choice(get_args(KillKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@as_json_option
def switch_on(*, kind: str, subject: str, tenant: str | None, as_json: bool) -> None:
    """Let them pass again."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _switch(lambda rulings: rulings.lift(kill_from(said)[0], operator()))
    _say_switched(said | {"switched": "on"}, as_json=as_json)


@keys.command("mint")
@as_json_option
def mint_secret(*, as_json: bool) -> None:
    """Print a new secret, for a `key_file` of keys.yaml; no database knows it yet."""
    text = mint().text
    if as_json:
        print_json({"key": text})
    else:
        click.echo(text)


def _switch(do: Callable[[Rulings], Awaitable[Mapping[str, int]]]) -> None:
    async def done(_: Registry, rulings: Rulings) -> None:
        await announced(await do(rulings))

    with_registry(done)


def _say_switched(done: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        click.echo(f"{done['kind']} {done['subject']} switched {done['switched']}")


def _document(said: dict[str, Any]) -> Json:
    """Options as a document: only what was given."""
    days = said.pop("expires_in", None)
    given: Json = {name: value for name, value in said.items() if value not in (None, ())}
    if days is not None:
        given["expires_at"] = datetime.now(UTC) + timedelta(days=days)
    elif given.get("expires_at") == NONE:
        given["expires_at"] = None
    if "models" in given:
        given["models"] = list(given["models"])
    if "tags" in given:
        given["tags"] = list(given["tags"])
    if "budgets" in given:
        given["budgets"] = [parsed(text) for text in given["budgets"] if text != NONE]
    return given


def _deed(do: Callable[[Registry], Awaitable[Deed]], *, as_json: bool) -> None:
    _done(lambda pool: do(Registry(pool)), as_json=as_json)


def _done(do: Callable[[Pool], Awaitable[Deed]], *, as_json: bool) -> None:
    """Do it, announce it and print the key as it is now."""

    async def done(pool: Pool) -> Json:
        deed = await do(pool)
        await announced(deed.epochs)
        return _told(deed)

    _print(with_pool(done), as_json=as_json)


def _told(deed: Deed) -> Json:
    secret = {"key": deed.minted.text} if deed.minted is not None else {}
    return key_document(deed.record) | secret


def _print(document: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    print_fields(document)
    if "key" in document:
        warn("this is the only time the key is shown")
