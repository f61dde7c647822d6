"""`llm-proxy admin-keys ...`: admin keys with names and roles, straight in the database.

Invariants: a key's text is printed by the command that issues it and by no other; revoking asks first.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import click

from llm_proxy.cli.database import operator, with_pool
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
from llm_proxy.identity.admin_keys import ROLES, AdminKeys, admin_key_document
from llm_proxy.identity.spoken import admin_key_from
from llm_proxy.json_access import Json

_COLUMNS = ("name", "role", "tenant", Column("prefix", whole=True), Column("expires", whole=True), "state")


@click.group()
def admin_keys() -> None:
    """Issue, list and revoke admin keys.

    Reads DATABASE_URL from the environment, .env or .keys/.
    """


@admin_keys.command("create")
@click.option("--name", required=True, help="Whose it is; the audit log shows it.")
@click.option("--role", required=True, type=click.Choice(ROLES), help="What it may do; see docs/admin.md.")
@click.option("--tenant", help="For the role `tenant`: the one tenant it sees.")
@click.option("--expires-at", metavar="ISO8601", help="When it ends.")
@as_json_option
def create_admin_key(*, as_json: bool, **said: str | None) -> None:
    """Issue an admin key and print it, this once."""

    async def issued(keys: AdminKeys) -> Json:
        spec = admin_key_from({name: value for name, value in said.items() if value is not None})
        record, minted = await keys.create(spec, operator())
        return admin_key_document(record) | {"key": minted.text}

    document = _run(issued)
    if as_json:
        print_json(document)
        return
    print_fields(document)
    warn("this is the only time the key is shown")


@admin_keys.command("list")
@as_json_option
def list_admin_keys(*, as_json: bool) -> None:
    """List admin keys, revoked ones too."""

    async def whole(keys: AdminKeys) -> list[Json]:
        found: list[Json] = []
        while part := await keys.page(after=found[-1]["name"] if found else ""):
            found += [admin_key_document(one) for one in part]
        return found

    found = _run(whole)
    if as_json:
        print_json(found)
        return
    rows = [
        (one["name"], one["role"], one["tenant"] or "-", one["prefix"], (one["expires_at"] or "-")[:16],
         "revoked" if one["revoked_at"] else "good")
        for one in found
    ]  # fmt: skip
    print_table(_COLUMNS, rows)


@admin_keys.command("revoke")
@click.argument("key")
@as_json_option
@yes_option
def revoke_admin_key(*, key: str, as_json: bool, yes: bool) -> None:
    """End an admin key (by its id, name or prefix) for good, everywhere at once."""
    confirm(f"Revoke the admin key {key} for good?", yes=yes)

    async def revoked(keys: AdminKeys) -> Json:
        return admin_key_document(await keys.revoke(key, operator()))

    document = _run(revoked)
    if as_json:
        print_json(document)
    else:
        print_fields(document)


def _run(do: Callable[[AdminKeys], Awaitable[Any]]) -> Any:  # noqa: ANN401 -- what the command prints
    return with_pool(lambda pool: do(AdminKeys(pool)))
