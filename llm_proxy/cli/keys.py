"""`llm-proxy keys`: virtual keys and kill switches, in the database; changes are published to all replicas.

Invariants: a key's text is printed by the command that creates it and by no other; a command asks before
what cannot be undone; `--json` prints one JSON document.
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import click

from llm_proxy.cli.context import complete_models, fetch_if_running, require_served_models
from llm_proxy.cli.database import (
    complete_keys,
    current_actor,
    publish_change,
    run_with_pool,
    run_with_repositories,
)
from llm_proxy.cli.limit_tables import (
    BUDGET_EXAMPLES,
    BUDGET_FORM,
    key_fields,
    limit_options,
    parse_budget,
    print_keys,
    print_limit_status,
)
from llm_proxy.cli.limits import print_policies
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    CommandGroup,
    as_json_option,
    confirm,
    print_fields,
    print_json,
    print_result,
    print_secret_once,
    warn,
    yes_option,
)
from llm_proxy.identity import KeyMutation, KeyRaiseRepository, KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import key_document, parse_kill_switch, parse_new_key, parse_raise
from llm_proxy.identity.key_search import KeyFilter
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
"""The values of `--unset`, and the field that each removes."""


def _check_budgets(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if texts != (NONE,) and parse_budget(text) is None:
            raise click.BadParameter(
                f"{text!r} is not {BUDGET_FORM}, such as {BUDGET_EXAMPLES}, or `none` alone."
            )
    return texts


def _check_days(_: click.Context, __: click.Parameter, days: float | None) -> float | None:
    if days is not None and not 0 < days <= MAX_DAYS:
        raise click.BadParameter(f"expected days, more than 0 and at most {MAX_DAYS}.")
    return days


_SPEC_OPTIONS: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
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
    limit_options,
    click.option(
        "--budget",
        "budgets",
        multiple=True,
        metavar=BUDGET_FORM,
        callback=_check_budgets,
        help=f"{BUDGET_EXAMPLES}; repeatable. `none` removes all.",
    ),
    click.option(
        "--max-tokens-cap", type=int, help="The maximum of completion tokens a request may ask for."
    ),
    click.option("--cache/--no-cache", default=None, help="Whether responses may come from the cache."),
    click.option(
        "--expires-at", metavar="ISO8601", help="When it ends, in UTC without an offset; `none` for never."
    ),
    click.option("--tag", "tags", multiple=True, help="A tag of every call; repeatable."),
    click.option(
        "--expires-in",
        type=float,
        metavar="DAYS",
        callback=_check_days,
        help="Days from now until it ends.",
    ),
]


def _spec_options(of: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_SPEC_OPTIONS):
        of = option(of)
    return of


_force_option = click.option("--force", is_flag=True, help="Allow models that are not served.")


@click.group(cls=CommandGroup)
def keys() -> None:
    """Create, list, change, rotate and revoke virtual keys.

    Reads DATABASE_URL and LIMITS_REDIS_URL from the environment, .env or .keys/.
    """


@keys.command("create")
@click.option("--name", required=True, help="Its unique name.")
@_spec_options
@_force_option
@as_json_option
def create_key(*, force: bool, as_json: bool, **options: Any) -> None:  # noqa: ANN401 -- click's options
    """Create a key and print it once."""
    if not force:
        require_served_models(options["models"])
    document = _document(options)
    _change_key(
        lambda keys: keys.create(parse_new_key(document, datetime.now(UTC)), current_actor()), as_json=as_json
    )


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--above", metavar="KEY", help="Only child keys below this key.", shell_complete=complete_keys)
@as_json_option
def list_keys(*, tenant: str | None, above: str | None, as_json: bool) -> None:
    """List keys, revoked ones too."""

    async def list_all(repository: KeyRepository, _: PolicyRepository) -> list[Json]:
        found: list[Json] = []
        of = KeyFilter(tenant, above=(await repository.get(above)).key_id if above is not None else None)
        while page := await repository.list_keys(matching=of, after=found[-1]["name"] if found else ""):
            found += [key_document(one) for one in page]
        return found

    print_result(run_with_repositories(list_all), print_keys, as_json=as_json)


@keys.command("show")
@click.argument("key", shell_complete=complete_keys)
@as_json_option
def show_key(*, key: str, as_json: bool) -> None:
    """Show one key, by its id, name or prefix, with its limit status and the limit policies on it.

    Those two come from the running gateway and need LLM_PROXY__ADMIN_KEY or LLM_PROXY__ADMIN_READ_KEY.
    """

    async def get(repository: KeyRepository, _: PolicyRepository) -> Json:
        return key_document(await repository.get(key))

    found = run_with_repositories(get)
    status = fetch_if_running(f"/admin/keys/{found['id']}")
    if as_json:
        print_json({**found, **{name: status and status[name] for name in ("limits", "rules")}})
        return
    print_fields(key_fields(found))
    if status is None:
        warn("no gateway answers, so the key's limit status is unknown")
        return
    if status["limits"] is None:
        warn("the limits store does not answer, so the key's limit status is unknown")
    for rows, show_rows in ((status["limits"], print_limit_status), (status["rules"], print_policies)):
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
    help="Remove a limit, a binding or an expiry; repeatable.",
)
@_force_option
@as_json_option
def change_key(*, key: str, unset: tuple[str, ...], force: bool, as_json: bool, **options: Any) -> None:  # noqa: ANN401 -- click's options
    """Change a key; options that are not given change nothing."""
    removed = {_UNSET_FIELDS[name]: None for name in unset}
    document = _document(options)
    both = next((name for name in unset if _UNSET_FIELDS[name] in document), None)
    if both is not None:
        raise click.UsageError(f"--unset {both} and a value for it exclude each other.")
    if not document | removed:
        raise click.UsageError("Nothing to change: no option says what.")
    if not force:
        require_served_models(options["models"])
    _change_key(lambda keys: keys.update(key, document | removed, current_actor()), as_json=as_json)


@keys.command("rotate")
@click.argument("key", shell_complete=complete_keys)
@click.option(
    "--overlap",
    type=click.IntRange(0, 31_536_000),
    default=86_400,
    show_default=True,
    help="Seconds for which the old secret stays valid.",
)
@as_json_option
@yes_option
def rotate_key(*, key: str, overlap: int, as_json: bool, yes: bool) -> None:
    """Give a key a new secret and print it once; the old secret stays valid for --overlap."""
    if overlap == 0:
        confirm(f"Revoke the present secrets of the key {key} at once?", yes=yes)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=overlap)
    _change_key(
        lambda keys: keys.rotate(key, current_actor(), overlap=timedelta(seconds=overlap)),
        as_json=as_json,
        old_secret_valid_until=until,
    )


@keys.command("raise")
@click.argument("key", shell_complete=complete_keys)
@limit_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar=BUDGET_FORM,
    callback=_check_budgets,
    help=f"{BUDGET_EXAMPLES}; repeatable.",
)
@click.option("--until", metavar="ISO8601", help="When it ends; UTC without an offset.")
@click.option("--days", type=float, callback=_check_days, help="Days from now until it ends.")
@click.option("--end", is_flag=True, help="End the running raise now.")
@as_json_option
def raise_key(*, key: str, days: float | None, end: bool, as_json: bool, **options: Any) -> None:  # noqa: ANN401 -- click's options
    """Raise a key's own limits and budgets until a time; then the old ones hold again."""
    document = _document(options)
    if end and (document or days):
        raise click.UsageError("--end excludes all other options.")
    if days is not None and "until" in document:
        raise click.UsageError("--until and --days exclude each other.")
    if days is not None:
        document["until"] = datetime.now(UTC) + timedelta(days=days)

    async def change(pool: Pool) -> KeyMutation:
        if end:
            return await KeyRaiseRepository(pool).end(key, current_actor())
        return await KeyRaiseRepository(pool).begin(key, parse_raise(document), current_actor())

    _change_and_print(change, as_json=as_json)


@keys.command("revoke")
@click.argument("key", shell_complete=complete_keys)
@as_json_option
@yes_option
def revoke_key(*, key: str, as_json: bool, yes: bool) -> None:
    """Revoke a key for good, everywhere within a second."""
    confirm(f"Revoke the key {key} for good?", yes=yes)
    _change_key(lambda keys: keys.revoke(key, current_actor()), as_json=as_json)


@keys.command("apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json_option
def apply_keys_file(*, file: Path, as_json: bool) -> None:
    """Apply a keys.yaml: keys, limit policies and kill switches."""

    async def apply(keys: KeyRepository, policies: PolicyRepository) -> Json:
        result = await apply_file(read_file(file), keys, policies, current_actor())
        await publish_change(result.epochs)
        created = [_result_document(mutation) for mutation in result.created]
        return {"changes": result.changes, "made": created, "missing": result.missing}

    result = run_with_repositories(apply)
    print_result(result, _print_applied, as_json=as_json)
    for fault in result["missing"]:
        warn(fault)
    sys.exit(EXIT_FAILED if result["missing"] else 0)


def _print_applied(result: Json) -> None:
    for line in result["changes"] or ["nothing to change"]:
        click.echo(line)
    for one in (created for created in result["made"] if "key" in created):
        click.echo(f"{one['name']}: {one['key']}")


@keys.command("switch-off")
@click.argument("kind", type=click.Choice(get_args(KillSwitchKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@click.option("--reason", default="", help="For the audit log.")
@as_json_option
def switch_off(*, kind: str, subject: str, tenant: str | None, reason: str, as_json: bool) -> None:
    """Reject all calls of a key (id, name or prefix), agent, tenant or model, everywhere within a second."""
    target = {"kind": kind, "subject": subject, "tenant": tenant}
    _set_switch(
        lambda policies: policies.enable_switch(parse_kill_switch(target)[0], current_actor(), reason=reason)
    )
    print_result(target | {"switched": "off"}, _print_switched, as_json=as_json)


@keys.command("switch-on")
@click.argument("kind", type=click.Choice(get_args(KillSwitchKind)))
@click.argument("subject")
@click.option("--tenant", help="Only in this tenant.")
@as_json_option
def switch_on(*, kind: str, subject: str, tenant: str | None, as_json: bool) -> None:
    """Admit the calls again that `switch-off` rejects."""
    target = {"kind": kind, "subject": subject, "tenant": tenant}
    _set_switch(lambda policies: policies.disable_switch(parse_kill_switch(target)[0], current_actor()))
    print_result(target | {"switched": "on"}, _print_switched, as_json=as_json)


@keys.command("mint")
@as_json_option
def mint_secret(*, as_json: bool) -> None:
    """Print a new secret for a `key_file` of keys.yaml; nothing is stored."""
    print_result({"key": generate_key().text}, lambda one: click.echo(one["key"]), as_json=as_json)


def _set_switch(do: Callable[[PolicyRepository], Awaitable[Mapping[str, int]]]) -> None:
    async def change(_: KeyRepository, policies: PolicyRepository) -> None:
        await publish_change(await do(policies))

    run_with_repositories(change)


def _print_switched(result: Json) -> None:
    click.echo(f"{result['kind']} {result['subject']} switched {result['switched']}")


def _document(options: dict[str, Any]) -> Json:
    """The options that were given, as a document of the admin API."""
    days = options.pop("expires_in", None)
    given: Json = {name: value for name, value in options.items() if value not in (None, ())}
    if days is not None and "expires_at" in given:
        raise click.UsageError("--expires-in and --expires-at exclude each other.")
    if days is not None:
        given["expires_at"] = datetime.now(UTC) + timedelta(days=days)
    elif given.get("expires_at") == NONE:
        given["expires_at"] = None
    given |= {name: list(given[name]) for name in ("models", "tags") if name in given}
    if "budgets" in given:
        given["budgets"] = [parse_budget(text) for text in given["budgets"] if text != NONE]
    return given


def _change_key(
    do: Callable[[KeyRepository], Awaitable[KeyMutation]], *, as_json: bool, **more: object
) -> None:
    _change_and_print(lambda pool: do(KeyRepository(pool)), as_json=as_json, **more)


def _change_and_print(do: Callable[[Pool], Awaitable[KeyMutation]], *, as_json: bool, **more: object) -> None:
    """Changes a key, publishes that, prints the key with `more` fields and its secret if that is new."""

    async def change(pool: Pool) -> Json:
        mutation = await do(pool)
        await publish_change(mutation.epochs)
        return more | _result_document(mutation)

    print_result(run_with_pool(change), _print_changed, as_json=as_json)


def _print_changed(document: Json) -> None:
    print_secret_once(key_fields(document))


def _result_document(mutation: KeyMutation) -> Json:
    secret = {"key": mutation.generated.text} if mutation.generated is not None else {}
    return key_document(mutation.record) | secret
