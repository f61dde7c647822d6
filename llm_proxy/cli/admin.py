"""`llm-proxy admin-keys`, `audit` and `notify`: administrators' keys, the log of their actions, webhooks.

Invariants: a key is printed by the command that issues it and by no other; revoking asks first. `audit` only
reads; `audit verify` exits 1 on a fault. `notify test` prints no webhook's address and exits 1 when a webhook
did not accept the event.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import click

from llm_proxy.cli.context import load_settings
from llm_proxy.cli.database import complete_keys, current_actor, run_with_pool
from llm_proxy.cli.limit_tables import format_budget
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_WRONG_INPUT,
    Column,
    CommandGroup,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_json,
    print_result,
    print_secret_once,
    print_table,
    to_plain,
    yes_option,
)
from llm_proxy.edge.routes.notifications import webhook_delivery, webhook_errors
from llm_proxy.identity import AuditFilter, AuditLog
from llm_proxy.identity.admin_documents import admin_key_document, parse_admin_key
from llm_proxy.identity.admin_keys import ROLES, AdminKeyRepository
from llm_proxy.identity.audit_log import AuditVerification, verify_audit_log
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.json_access import Json
from llm_proxy.ledger.usage_query import parse_time
from llm_proxy.notify import (
    DeliveryFailed,
    StoredNotification,
    Webhook,
    WebhookSender,
    make_test_notification,
    webhooks_from_settings,
)

_KEY_COLUMNS = (
    "name",
    "role",
    "tenant",
    Column("prefix", unbroken=True),
    Column("expires (UTC)", unbroken=True),
    "state",
)


@click.group(cls=CommandGroup)
def admin_keys() -> None:
    """Issue, list and revoke admin keys.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """


@admin_keys.command("create")
@click.option("--name", required=True, help="Its name in the audit log.")
@click.option("--role", required=True, type=click.Choice(ROLES), help="Its rights; see docs/admin.md.")
@click.option("--tenant", help="For the role `tenant`: its only tenant.")
@click.option("--expires-at", metavar="ISO8601", help="When it ends.")
@as_json_option
def create_admin_key(*, as_json: bool, **options: str | None) -> None:
    """Issue an admin key and print it once."""

    async def create(keys: AdminKeyRepository) -> Json:
        given = {name: value for name, value in options.items() if value is not None}
        spec = parse_admin_key(given, datetime.now(UTC))
        record, generated = await keys.create(spec, current_actor())
        return admin_key_document(record) | {"key": generated.text}

    print_result(_run_with_admin_keys(create), print_secret_once, as_json=as_json)


@admin_keys.command("list")
@as_json_option
def list_admin_keys(*, as_json: bool) -> None:
    """List admin keys, revoked ones too."""

    async def list_all(keys: AdminKeyRepository) -> list[Json]:
        found: list[Json] = []
        while page := await keys.list_keys(after=found[-1]["name"] if found else ""):
            found += [admin_key_document(one) for one in page]
        return found

    print_result(_run_with_admin_keys(list_all), _print_admin_keys, as_json=as_json)


def _print_admin_keys(keys: list[Json]) -> None:
    rows = [
        (one["name"], one["role"], one["tenant"] or "-", one["prefix"], (one["expires_at"] or "-")[:16],
         "revoked" if one["revoked_at"] else "good")
        for one in keys
    ]  # fmt: skip
    print_table(_KEY_COLUMNS, rows)


@admin_keys.command("revoke")
@click.argument("key")
@as_json_option
@yes_option
def revoke_admin_key(*, key: str, as_json: bool, yes: bool) -> None:
    """Revoke an admin key (by its id, name or prefix) for good, everywhere at once."""
    confirm(f"Revoke the admin key {key} for good?", yes=yes)

    async def revoke(keys: AdminKeyRepository) -> Json:
        return admin_key_document(await keys.revoke(key, current_actor()))

    print_result(_run_with_admin_keys(revoke), print_fields, as_json=as_json)


def _run_with_admin_keys(do: Callable[[AdminKeyRepository], Awaitable[Any]]) -> Any:  # noqa: ANN401 -- what the command prints
    return run_with_pool(lambda pool: do(AdminKeyRepository(pool)))


_AUDIT_COLUMNS = (
    Column("id", number=True),
    Column("at (UTC)", unbroken=True),
    "who",
    Column("action", unbroken=True),
    "what",
    "changed",
)


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings={"show_default": True})
@click.option("--action", help="Only this action, such as `keys.change`; `keys.*` for all that begin so.")
@click.option("--actor", help="Who acted: an admin key's name, a user of this machine, or `keys file`.")
@click.option(
    "--subject",
    shell_complete=complete_keys,
    help="A key's id, name or prefix; a tenant, agent, user or model.",
)
@click.option("--since", help="2026-11-01, 2026-11-01T12:00Z, 24h, 7d.")
@click.option("--until", help="The same.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="How many are shown, the latest.")
@click.option("--before", type=click.IntRange(0, 2**53), help="Only entries before this id: the next page.")
@as_json_option
@click.pass_context
def audit(
    context: click.Context, /, *, limit: int, before: int | None, as_json: bool, **filters: str | None
) -> None:
    """Show the actions of admins, rejected ones too.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """
    if context.invoked_subcommand is not None:
        return
    rows = run_with_pool(lambda pool: _audit_page(pool, filters, limit, before))
    print_result(rows, _print_audit, as_json=as_json)


def _print_audit(rows: list[Json]) -> None:
    print_table(_AUDIT_COLUMNS, [_audit_row(row) for row in rows])


@audit.command("verify")
@click.option("--head", metavar="DIGEST", help="A head printed by an earlier run: the log must contain it.")
@as_json_option
def verify_log(*, head: str | None, as_json: bool) -> None:
    """Prove that no entry was changed, reordered, added or removed.

    Prints the head's digest. Keep it elsewhere: with --head, a later run also detects a log that was
    rewritten completely or lost its end.
    """
    report = run_with_pool(lambda pool: verify_audit_log(pool, head))
    if as_json:
        print_json(
            {name: getattr(report, name) for name in AuditVerification.__slots__} | {"ok": not report.faults}
        )
    else:
        for fault in report.faults:
            click.echo(f"fault  {fault}")
        print_fields(
            {
                "entries": report.entries,
                "last entry": report.last,
                "head": report.head or "none: the log is empty",
                "months dropped by retention": ", ".join(report.retired) or None,
                "names erased": report.nameless or None,
                "rows from before the chain, which are unprotected": report.unchained or None,
                "verdict": "changed" if report.faults else "whole",
            }
        )
    sys.exit(EXIT_FAILED if report.faults else 0)


async def _audit_page(
    pool: Pool, filters: dict[str, str | None], limit: int, before: int | None
) -> list[Json]:
    now = datetime.now(UTC)
    since, until = (
        parse_time(text, now) if (text := filters.pop(name)) else None for name in ("since", "until")
    )
    wanted = AuditFilter(**filters, since=since, until=until)
    return await AuditLog(pool).list_entries(wanted, limit=limit, before=before)


def _audit_row(row: Json) -> tuple[str, ...]:
    who = f"{row['actor']} ({row['role']})" if row["role"] else row["actor"]
    at = row["at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    name = row["detail"].get("name")
    what = f"{name} ({row['target']})" if name else row["target"]
    return (
        str(row["id"]),
        at,
        f"{who}\n{row['client_ip'] or ''}".strip(),
        row["action"],
        what,
        _changes_text(row),
    )


def _changes_text(row: Json) -> str:
    details = [f"{name}: {value}" for name, value in row["detail"].items() if name not in {"name", "param"}]
    if row["status"] is not None:
        return "\n".join([f"rejected, {row['status']}: {row['reason']}", *details])
    before: Json = row["before"] or {}
    after: Json = row["after"] or {}
    lines: list[str] = []
    for name in {**before, **after}:
        old, new = (_value_text(side.get(name)) for side in (before, after))
        if old != new and row["before"] is not None:
            lines.append(f"{name}: {old} -> {new}")
        elif row["before"] is None and new not in (None, ""):
            lines.append(f"{name}: {new}")
    return "\n".join([*lines, *details])


def _value_text(value: Any) -> object:  # noqa: ANN401 -- JSON
    """Returns a field's value as text, budgets as in `--budget`."""
    if not isinstance(value, list):
        return to_plain(value)
    entries: list[Any] = value  # pyright: ignore[reportUnknownVariableType] -- JSON
    return ", ".join(map(_budget_text, entries))


def _budget_text(entry: Any) -> str:  # noqa: ANN401 -- JSON
    if not isinstance(entry, dict) or "period" not in entry:
        return f"{entry}"
    document: dict[str, Any] = entry  # pyright: ignore[reportUnknownVariableType] -- JSON
    return format_budget(document)


@click.group(cls=CommandGroup)
def notify() -> None:
    """Test the webhooks of notifications."""


@notify.command("test")
@as_json_option
def test_webhooks(*, as_json: bool) -> None:
    """Send a test event to each webhook, once.

    Reads LLM_PROXY__NOTIFY_WEBHOOKS and its secret from the environment, .env or .keys/.
    """
    settings = load_settings()
    webhooks = webhooks_from_settings(settings.webhooks)
    if not webhooks:
        fail("LLM_PROXY__NOTIFY_WEBHOOKS is not set", EXIT_WRONG_INPUT)
    if errors := webhook_errors(settings, kept=False):
        fail("; ".join(errors), EXIT_WRONG_INPUT)
    event = make_test_notification()
    message = StoredNotification(uuid4(), event.kind, datetime.now(UTC), event.facts)
    results = asyncio.run(_send_all(webhook_delivery(settings), webhooks, message))
    print_result(results, _print_deliveries, as_json=as_json)
    sys.exit(0 if all(one["delivered"] for one in results) else EXIT_FAILED)


def _print_deliveries(results: list[Json]) -> None:
    rows = [(one["webhook"], one["result"]) for one in results]
    print_table((Column("webhook", unbroken=True), "result"), rows)


async def _send_all(
    sender: WebhookSender, webhooks: tuple[Webhook, ...], message: StoredNotification
) -> list[Json]:
    return list(await asyncio.gather(*(_send_one(sender, webhook, message) for webhook in webhooks)))


async def _send_one(sender: WebhookSender, webhook: Webhook, message: StoredNotification) -> Json:
    delivery = {"webhook": webhook.name, "event": str(message.event_id)}
    try:
        status = await sender.send(webhook, message)
    except DeliveryFailed as fault:
        return delivery | {"delivered": False, "result": str(fault)}
    return delivery | {"delivered": True, "result": f"it answered {status}"}
