"""`llm-proxy erase`: a person is erased by way of the running gateway.

Invariants: says `erased` only when nothing is left; exit 1 while something is, with what, and where.
"""

import sys
from typing import Any

import click

from llm_proxy.cli import nearby
from llm_proxy.cli.printing import (
    FAILED,
    WRONG,
    Column,
    as_json_option,
    confirm,
    fail,
    print_fields,
    print_json,
    print_table,
    yes_option,
)

TIMEOUT_S = 600
_COLUMNS = (Column("store"), Column("state"), Column("found", number=True), Column("note"))
_OF_THE_PERSON = (
    "payloads", "requests", "roll-ups", "revoked keys", "refusals", "notifications", "old audit log",
    "rejected records", "langfuse",
)  # fmt: skip
_url_option = click.option(
    "--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings]."
)


@click.group
def erase() -> None:
    """Erase a person's text and name."""


@erase.command("user")
@click.argument("name")
@click.option("--tenant", required=True, help="Within this tenant; an empty word: calls without a tenant.")
@as_json_option
@yes_option
@_url_option
def erase_user(*, name: str, tenant: str, as_json: bool, yes: bool, url: str | None) -> None:
    """Erase everything a tenant's user NAME said and was answered, and the name itself.

    Repeat it to go on with what was incomplete. Reads LLM_PROXY__ADMIN_KEY from the environment, .env or
    .keys/.
    """
    whose = f"of tenant {tenant}" if tenant else "without a tenant"
    confirm(f"Erase the user {name} {whose} for good?", yes=yes)
    certificate = _ask("/admin/erasures", url, {"tenant": tenant, "user": name})
    if as_json:
        print_json(certificate)
    else:
        _print(certificate)
    sys.exit(0 if certificate["complete"] else FAILED)


@erase.command("replay")
@as_json_option
@_url_option
def replay_erasures(*, as_json: bool, url: str | None) -> None:
    """Erase again who has come back out of a backup, and go on with what is incomplete.

    The gateway does the same at its start and every ten minutes.
    """
    certificates = _ask("/admin/erasures/replay", url)["data"]
    if as_json:
        print_json(certificates)
    elif not certificates:
        click.echo("nobody has come back, and nothing is incomplete")
    else:
        for one in certificates:
            _print(one)
    sys.exit(0 if all(one["complete"] for one in certificates) else FAILED)


def _ask(path: str, url: str | None, body: dict[str, str] | None = None) -> dict[str, Any]:
    settings = nearby.settings()
    if settings.admin_key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", WRONG)
    with nearby.gateway(settings, settings.admin_key, url, timeout_s=TIMEOUT_S) as client:
        return nearby.ask(client, "POST", path, body)


def _print(certificate: dict[str, Any]) -> None:
    stores: dict[str, dict[str, Any]] = certificate["stores"]
    kept = [name for name, one in stores.items() if one["state"] == "kept"]
    if not certificate["complete"]:
        result = "NOT YET ERASED: repeat the command, or leave it to the gateway, which goes on by itself"
    elif not any(stores.get(name, {}).get("found") for name in _OF_THE_PERSON):
        result = "nothing of this name was found"
    else:
        result = f"erased, except in {', '.join(kept)}" if kept else "erased"
    shown = {name: certificate[name] for name in ("id", "tenant", "asked_at", "pseudonym")}
    print_fields(shown | {"result": result})
    click.echo()
    rows = [[name, one["state"], f"{one['found']:,}", one["note"]] for name, one in stores.items()]
    print_table(_COLUMNS, rows)
