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

from llm_proxy.cli.context import complete_keys, complete_models, fetch_if_running, warn_of_unserved_models
from llm_proxy.cli.database import current_actor, publish_change, run_with_pool, run_with_repositories
from llm_proxy.cli.limit_tables import (
    BUDGET_EXAMPLES,
    BUDGET_FORM,
    parse_budget,
    print_keys,
    print_limit_status,
)
from llm_proxy.cli.limits import print_policies
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    as_json_option,
    confirm,
    print_fields,
    print_json,
    warn,
    yes_option,
)
from llm_proxy.identity import KeyMutation, KeyRaiseRepository, KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import key_document, parse_key_spec, parse_kill_switch, parse_raise
from llm_proxy.identity.keys_file import apply_keys_file as apply_file
from llm_proxy.identity.keys_file import load_keys_file as read_file
from llm_proxy.identity.policies import KillSwitchKind
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.identity.virtual_keys import generate_key
from llm_proxy.json_access import Json

MAX_DAYS = 36_525
NONE = "none"
_UNSET_FIELDS = {
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


def _check_budgets(_: click.Context, __: click.Parameter, said: tuple[str, ...]) -> tuple[str, ...]:
    for text in said:
        if said != (NONE,) and parse_budget(text) is None:
            raise click.BadParameter(
                f"{text!r} is not {BUDGET_FORM}, such as {BUDGET_EXAMPLES}, or `none` alone."
            )
    return said


def _check_days(_: click.Context, __: click.Parameter, said: float | None) -> float | None:
    if said is not None and not 0 < said <= MAX_DAYS:
        raise click.BadParameter(f"expected days from 0 to {MAX_DAYS}.")
    return said


_SPEC_OPTIONS = [
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
        metavar=BUDGET_FORM,
        callback=_check_budgets,
        help=f"{BUDGET_EXAMPLES}; repeatable. `none` takes all away.",
    ),
    click.option("--max-tokens-cap", type=int, help="Completion tokens a request may ask for at most."),
    click.option("--cache/--no-cache", default=None, help="Whether answers may come from the cache."),
    click.option("--expires-at", metavar="ISO8601", help="When it ends; `none` for never."),
    click.option("--tag", "tags", multiple=True, help="A tag of every call; repeatable."),
    click.option(
        "--expires-in",
        type=float,
        metavar="DAYS",
        callback=_check_days,
        help="When it ends, counted from now.",
    ),
]


def _spec_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SPEC_OPTIONS):
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
    warn_of_unserved_models(said["models"])
    _change_key(
        lambda registry: registry.create(parse_key_spec(_document(said)), current_actor()), as_json=as_json
    )


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@as_json_option
def list_keys(*, tenant: str | None, as_json: bool) -> None:
    """List keys, revoked ones too."""

    async def whole(registry: KeyRepository, _: PolicyRepository) -> list[Json]:
        found: list[Json] = []
        while part := await registry.list_keys(tenant=tenant, after=found[-1]["name"] if found else ""):
            found += [key_document(one) for one in part]
        return found

    found = run_with_repositories(whole)
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

    async def one(registry: KeyRepository, _: PolicyRepository) -> Json:
        return key_document(await registry.get(key))

    found = run_with_repositories(one)
    standing = fetch_if_running(f"/admin/keys/{found['id']}")
    if as_json:
        print_json({**found, **{name: standing and standing[name] for name in ("limits", "rules")}})
        return
    print_fields(found)
    if standing is None:
        warn("no gateway tells where the key stands at its limits")
        return
    for rows, show_rows in ((standing["limits"], print_limit_status), (standing["rules"], print_policies)):
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
    type=click.Choice(list(_UNSET_FIELDS)),
    help="Take a limit, a binding or an end away; repeatable.",
)
@as_json_option
def change_key(*, key: str, unset: tuple[str, ...], as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Change a key; what is not given stays."""
    taken = {_UNSET_FIELDS[name]: None for name in unset}
    document = _document(said)
    both = next((name for name in unset if _UNSET_FIELDS[name] in document), None)
    if both is not None:
        raise click.UsageError(f"--unset {both} and a value for it exclude each other.")
    warn_of_unserved_models(said["models"])

    _change_key(lambda registry: registry.update(key, document | taken, current_actor()), as_json=as_json)


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
    _change_key(
        lambda registry: registry.rotate(key, current_actor(), overlap=timedelta(seconds=overlap)),
        as_json=as_json,
    )


@keys.command("raise")
@click.argument("key", shell_complete=complete_keys)
@click.option("--rpm", type=int, help="Requests a minute; 0 for no limit.")
@click.option("--tpm", type=int, help="Tokens a minute; 0 for no limit.")
@click.option("--parallel", type=int, help="Requests at once; 0 for no limit.")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar=BUDGET_FORM,
    callback=_check_budgets,
    help=f"{BUDGET_EXAMPLES}; repeatable.",
)
@click.option("--until", metavar="ISO8601", help="When it ends; UTC without an offset.")
@click.option("--days", type=float, callback=_check_days, help="When it ends, counted from now.")
@click.option("--end", is_flag=True, help="End the raise that runs, now.")
@as_json_option
def raise_key(*, key: str, days: float | None, end: bool, as_json: bool, **said: Any) -> None:  # noqa: ANN401 -- click's options
    """Raise a key's own limits and budgets until a time; they come back by themselves."""
    document = _document(said)
    if end and (document or days):
        raise click.UsageError("--end stands alone.")
    if days is not None:
        document["until"] = datetime.now(UTC) + timedelta(days=days)

    async def done(pool: Pool) -> KeyMutation:
        if end:
            return await KeyRaiseRepository(pool).end(key, current_actor())
        return await KeyRaiseRepository(pool).begin(key, parse_raise(document), current_actor())

    _change_and_print(done, as_json=as_json)


@keys.command("revoke")
@click.argument("key", shell_complete=complete_keys)
@as_json_option
@yes_option
def revoke_key(*, key: str, as_json: bool, yes: bool) -> None:
    """End a key for good, everywhere within a second."""
    confirm(f"Revoke the key {key} for good?", yes=yes)
    _change_key(lambda registry: registry.revoke(key, current_actor()), as_json=as_json)


@keys.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def apply_keys_file(*, file: Path, as_json: bool) -> None:
    """Bring keys, limits and kill switches to what a keys.yaml says."""

    async def applied(registry: KeyRepository, rulings: PolicyRepository) -> Json:
        done = await apply_file(read_file(file), registry, rulings, current_actor())
        await publish_change(done.epochs)
        made = [_result_document(deed) for deed in done.created]
        return {"changes": done.changes, "made": made, "missing": done.missing}

    done = run_with_repositories(applied)
    if as_json:
        print_json(done)
    else:
        for line in done["changes"] or ["nothing to change"]:
            click.echo(line)
        for one in (made for made in done["made"] if "key" in made):
            click.echo(f"{one['name']}: {one['key']}")
    for fault in done["missing"]:
        warn(fault)
    sys.exit(EXIT_FAILED if done["missing"] else 0)


@keys.command("switch-off")
@click.argument("kind", type=click.Choice(get_args(KillSwitchKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@click.option("--reason", default="", help="For the record.")
@as_json_option
def switch_off(*, kind: str, subject: str, tenant: str | None, reason: str, as_json: bool) -> None:
    """Stop all calls of a key (by id, name or prefix), agent, tenant or model, everywhere within a second."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _set_switch(
        lambda rulings: rulings.enable_switch(parse_kill_switch(said)[0], current_actor(), reason=reason)
    )
    _print_switched(said | {"switched": "off"}, as_json=as_json)


@keys.command("switch-on")
@click.argument("kind", type=click.Choice(get_args(KillSwitchKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@as_json_option
def switch_on(*, kind: str, subject: str, tenant: str | None, as_json: bool) -> None:
    """Let them pass again."""
    said = {"kind": kind, "subject": subject, "tenant": tenant}
    _set_switch(lambda rulings: rulings.disable_switch(parse_kill_switch(said)[0], current_actor()))
    _print_switched(said | {"switched": "on"}, as_json=as_json)


@keys.command("mint")
@as_json_option
def mint_secret(*, as_json: bool) -> None:
    """Print a new secret, for a `key_file` of keys.yaml; no database knows it yet."""
    text = generate_key().text
    if as_json:
        print_json({"key": text})
    else:
        click.echo(text)


def _set_switch(do: Callable[[PolicyRepository], Awaitable[Mapping[str, int]]]) -> None:
    async def done(_: KeyRepository, rulings: PolicyRepository) -> None:
        await publish_change(await do(rulings))

    run_with_repositories(done)


def _print_switched(done: Json, *, as_json: bool) -> None:
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
        given["budgets"] = [parse_budget(text) for text in given["budgets"] if text != NONE]
    return given


def _change_key(do: Callable[[KeyRepository], Awaitable[KeyMutation]], *, as_json: bool) -> None:
    _change_and_print(lambda pool: do(KeyRepository(pool)), as_json=as_json)


def _change_and_print(do: Callable[[Pool], Awaitable[KeyMutation]], *, as_json: bool) -> None:
    """Do it, announce it and print the key as it is now."""

    async def done(pool: Pool) -> Json:
        deed = await do(pool)
        await publish_change(deed.epochs)
        return _result_document(deed)

    _print_result(run_with_pool(done), as_json=as_json)


def _result_document(deed: KeyMutation) -> Json:
    secret = {"key": deed.generated.text} if deed.generated is not None else {}
    return key_document(deed.record) | secret


def _print_result(document: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    print_fields(document)
    if "key" in document:
        warn("this is the only time the key is shown")
