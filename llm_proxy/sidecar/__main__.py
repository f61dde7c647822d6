"""`python -m llm_proxy.sidecar --config FILE --host H --port N`: LiteLLM, one process a port.

Exit codes: 0 after a drained SIGTERM, 2 configuration, 3 port in use, 4 LiteLLM would not start, 5 a
malicious release; each with one line.
"""

import argparse
import atexit
import os
import re
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from llm_proxy.hardening import harden_process
from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.rotation import split_secrets
from llm_proxy.secret_files import SecretFileUnreadable, read_secret_files
from llm_proxy.service_urls import InvalidURL, parse_setting
from llm_proxy.sidecar import prefork
from llm_proxy.sidecar.environment import ACCEPT_VARIABLE, accepted_settings, build_environment
from llm_proxy.sidecar.process_log import log_line
from llm_proxy.sidecar.recycle_limits import read_recycle_limits
from llm_proxy.sidecar.verify_environment import EXIT_UNSAFE, is_malicious
from llm_proxy.store_variables import redis_url_of

EXIT_CONFIG, EXIT_PORT = 2, 3
DEFAULT_PORT = 4001
CACHE, CALL_LOG, CA_VARIABLE = "CACHE_REDIS_URL", "LLM_CALLS_DATABASE_URL", "LLM_PROXY__CA_FILE"
INCLUDE_SECTION = re.compile(r"^include:[ \t]*\n((?:[ \t]*-.*\n?)+)", re.MULTILINE)


def main(args: list[str] | None = None) -> int:
    """Run the sidecar until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="llm-proxy sidecar", description="Run LiteLLM, one process a port.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port",
        type=_ports,
        action="append",
        metavar="N[-M]",
        help="one port, or several: a process each, forked from a parent that restarts and replaces them",
    )
    parser.add_argument("--prefork", action="store_true", help="have that parent for one port too")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="PATH",
        help=f"a setting that protects and has no effect here; also {ACCEPT_VARIABLE}",
    )
    options = parser.parse_args(args)
    accepted = accepted_settings(os.environ) | {*options.accept}
    harden_process()
    try:
        text = "\n".join(_config_texts(options.config))
    except (OSError, UnicodeDecodeError) as error:
        return _fail(EXIT_CONFIG, f"{options.config}: cannot be read: {error}")
    listeners = _bind_all(options.host, options.port or [range(DEFAULT_PORT, DEFAULT_PORT + 1)])
    if isinstance(listeners, str):
        return _fail(EXIT_PORT, listeners)
    release = version("litellm")
    if is_malicious("litellm", release):
        return _fail(EXIT_UNSAFE, f"litellm {release} was published with malicious code and never starts")
    try:
        os.environ.update(read_secret_files(os.environ))
        stores = _store_addresses(os.environ)
        read_recycle_limits(os.environ)
    except (InvalidURL, SecretFileUnreadable, ValueError) as error:
        return _fail(EXIT_CONFIG, str(error))
    keys = split_secrets(os.environ.get("LITELLM_MASTER_KEY", ""))
    if not keys:
        return _fail(EXIT_CONFIG, "LITELLM_MASTER_KEY is not set: the gateway's key at this sidecar")
    environment = build_environment(os.environ | stores, text) | {ACCEPT_VARIABLE: ",".join(accepted)}
    os.environ.clear()
    os.environ.update(environment)
    exit_now = ExitWithoutCleanup()
    atexit.register(exit_now)
    exit_now.code = _serve(options.config.absolute(), listeners, keys, is_forked=options.prefork)
    return exit_now.code


def _serve(config: Path, listeners: list[socket.socket], keys: tuple[str, ...], *, is_forked: bool) -> int:
    """Serve in this process, or in one process a port that this one forks; return the exit code."""
    # Imported only now: LiteLLM reads the environment while it is imported.
    from llm_proxy.sidecar import launch  # noqa: PLC0415
    from llm_proxy.sidecar.config import InvalidConfig  # noqa: PLC0415

    try:
        prepared = launch.prepare(config)
    except InvalidConfig as error:
        return _fail(EXIT_CONFIG, f"{config}: {error}")
    if len(listeners) == 1 and not is_forked:
        return launch.run(prepared, listeners[0], keys, None)
    limits = read_recycle_limits(os.environ)
    return prefork.run(listeners, limits, lambda link: launch.run(prepared, link.listener, keys, link))


def _ports(text: str) -> range:
    """Parse a port or a range of ports; raises `ValueError` or `ArgumentTypeError`."""
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is an empty range of ports")
    return found


def _store_addresses(env: Mapping[str, str]) -> dict[str, str]:
    """Return the normalized addresses of cache and call log; raises `InvalidURL`.

    As LiteLLM's own, the cache may also be named by `REDIS_URL`, or by `REDIS_HOST` and the like.
    """
    found: dict[str, str] = {}
    if ca_file := env.get(CA_VARIABLE):
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError:
            raise InvalidURL(f"{CA_VARIABLE}: it cannot be read, or holds no certificates") from None
    name = next((one for one in (CACHE, "REDIS_URL") if env.get(one)), None)
    if name:
        found[CACHE] = parse_setting(name, env[name], parse_redis_url)
    elif assembled := redis_url_of(env):
        found[CACHE] = parse_setting("REDIS_HOST", assembled, parse_redis_url)
    if env.get(CALL_LOG):
        found[CALL_LOG] = parse_setting(CALL_LOG, env[CALL_LOG], parse_postgres_url)
    return found


class ExitWithoutCleanup:
    """Exits at once: the first exit handler registered is the last called, so the others have run.

    Python would otherwise free LiteLLM's objects one by one, which takes seconds.
    """

    code = 1

    def __call__(self) -> None:
        """Flush the standard streams and exit with the code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def _config_texts(config: Path) -> Iterator[str]:
    """Yield the text of the configuration and of each file its `include` section names."""
    text = config.read_text(encoding="utf-8")
    yield text
    for section in INCLUDE_SECTION.findall(text):
        for line in section.split("\n"):
            included = config.parent / line.strip().removeprefix("-").strip().strip("'\"")
            yield included.read_text(encoding="utf-8") if included.is_file() else ""


def _bind_all(host: str, given: list[range]) -> list[socket.socket] | str:
    """Return a bound socket for each port, or an error message."""
    bound: list[socket.socket] = []
    for port in (port for ports in given for port in ports):
        listener = _bind(host, port)
        if isinstance(listener, str):
            return listener
        bound.append(listener)
    return bound


def _bind(host: str, port: int) -> socket.socket | str:
    """Return a bound socket that does not listen yet, or an error message."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        return f"cannot listen on {host}:{port}: {error.strerror}"
    return bound


def _fail(code: int, message: str) -> int:
    log_line(message)
    return code


if __name__ == "__main__":
    sys.exit(main())
