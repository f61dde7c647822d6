"""`llm-proxy cache purge`: cached answers are deleted by way of the running gateway.

Invariants: prints how many were deleted; exit 1 with the gateway's message when it could not delete all.
"""

import click
import httpx

from llm_proxy.cli import nearby
from llm_proxy.cli.completion import complete_models
from llm_proxy.cli.printing import WRONG, as_json_option, confirm, fail, print_json, yes_option

TIMEOUT_S = 75


@click.group
def cache() -> None:
    """Look after the response cache."""


@cache.command("purge")
@click.option("--tenant", help="Only answers of this tenant.")
@click.option("--model", help="Only answers of this model group.", shell_complete=complete_models)
@as_json_option
@yes_option
@click.option("--url", help="The gateway, such as http://127.0.0.1:7007 [default: the one of the settings].")
def purge_cache(*, tenant: str | None, model: str | None, as_json: bool, yes: bool, url: str | None) -> None:
    """Delete cached answers: all of them, or those of a tenant, a model, or both.

    Reads LLM_PROXY__ADMIN_KEY from the environment, .env or .keys/.
    """
    settings = nearby.settings()
    if settings.admin_key is None:
        fail("LLM_PROXY__ADMIN_KEY is not set", WRONG)
    whose = " and ".join(f"{name} {value}" for name, value in (("tenant", tenant), ("model", model)) if value)
    confirm(f"Delete the cached answers of {whose or 'everything'}?", yes=yes)
    named = {name: value for name, value in (("tenant", tenant), ("model", model)) if value is not None}
    with nearby.gateway(settings, settings.admin_key, url, timeout_s=TIMEOUT_S) as client:
        purged = nearby.ask(client, "DELETE", str(httpx.URL("/admin/cache", params=named)))
    if as_json:
        print_json(purged)
    else:
        click.echo(f"{purged['purged']} cached answers deleted")
