"""`llm-proxy console`: the console's process, and links that sign in once.

Invariants: it listens on an address of its own; insecure settings stop it and are named; only the command
that makes a link prints it.
"""

import asyncio
import socket
from datetime import timedelta

import click
import uvicorn

from llm_proxy.cli.context import gateway_url, load_settings, stack_addresses
from llm_proxy.cli.printing import EXIT_UNAVAILABLE, EXIT_WRONG_INPUT, exit_with_lines, fail
from llm_proxy.cli.serve import bind_or_fail, new_event_loop
from llm_proxy.console import create_console
from llm_proxy.errors import APIError
from llm_proxy.hardening import harden_process
from llm_proxy.http_server import PromptServer
from llm_proxy.identity.console_sessions import ConsoleSessions
from llm_proxy.insecure_settings import insecure_console_settings
from llm_proxy.schema.connections import open_command_pool
from llm_proxy.settings import Settings
from llm_proxy.stack.plan import CONSOLE_PORT_TAKEN, port_in_use
from llm_proxy.stack.probe import client_host
from llm_proxy.telemetry import setup_logging

LINK_LIFETIME = timedelta(minutes=15)
GRACE_S = 5


@click.command(context_settings={"show_default": True})
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--link", is_flag=True, help="Only print a link that signs in once at the running console.")
@click.option("--no-link", is_flag=True, help="Start without printing a link.")
def console(host: str | None, port: int | None, *, link: bool, no_link: bool) -> None:
    """Run the web console; print a link that signs in once."""
    harden_process()
    settings = load_settings()
    given = {"console_host": host, "console_port": port}
    settings = settings.model_copy(update={name: one for name, one in given.items() if one is not None})
    if faults := insecure_console_settings(settings):
        exit_with_lines([f"refused to start: {fault}" for fault in faults], EXIT_WRONG_INPUT)
    if link:
        _reject_others_console(settings)
        click.echo(sign_in_link(settings))
        return
    bound = bind_or_fail(settings.console_host, settings.console_port)
    if not no_link and settings.admin_keys:
        click.echo(f"sign in: {sign_in_link(settings)}")
    setup_logging(settings.log_level, secrets=(*settings.admin_keys, *settings.admin_read_keys))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, bound))


def _reject_others_console(settings: Settings) -> None:
    """Ends the command where the stack of this folder found another program on the console's port."""
    if stack_addresses().get(CONSOLE_PORT_TAKEN) == str(settings.console_port):
        fail(
            f"the console of this folder's stack does not run: {port_in_use(settings.console_port)}",
            EXIT_UNAVAILABLE,
        )


def sign_in_link(settings: Settings) -> str:
    """Returns the address of a link that signs in once as the first owner; ends the command without a key."""
    if not settings.admin_keys:
        fail("LLM_PROXY__ADMIN_KEY is not set: the link could not sign in", EXIT_WRONG_INPUT)
    try:
        secret = asyncio.run(_make_link(settings, settings.admin_keys[0]))
    except APIError as error:
        fail(error.message, EXIT_UNAVAILABLE)
    return f"{console_address(settings)}/sign-in/link/{secret}"


def console_address(settings: Settings) -> str:
    """Returns the console's address for a browser, without a slash at the end."""
    if settings.console_url:
        return settings.console_url.rstrip("/")
    host = client_host(settings.console_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.console_port}"


async def _make_link(settings: Settings, key: str) -> str:
    assert settings.database_url is not None  # noqa: S101 -- `insecure_console_settings`
    url = settings.database_url.get_secret_value()
    async with open_command_pool(url, settings.tls_for(url)) as pool:
        sessions = ConsoleSessions(pool, lifetime=LINK_LIFETIME, idle=LINK_LIFETIME)
        return await sessions.make_link(key, LINK_LIFETIME)


async def _serve(settings: Settings, bound: socket.socket) -> None:
    app = create_console(settings, settings.console_gateway_url or gateway_url(settings))
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    await PromptServer(config).serve(sockets=[bound])
