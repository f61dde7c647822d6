"""`python -m llm_proxy.sidecar --config FILE --host H --port N`: one LiteLLM process.

Exit codes: 0 after a drained SIGTERM, 2 configuration, 3 port in use, 4 LiteLLM would not start, 5 a
poisoned release; each with one line.
"""

import argparse
import atexit
import os
import re
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from llm_proxy.hardening import harden_process
from llm_proxy.service_urls import InvalidURL, parse_postgres_url, parse_redis_url, parse_setting
from llm_proxy.sidecar.environment import build_environment
from llm_proxy.sidecar.verify_environment import EXIT_UNSAFE, is_malicious

EXIT_CONFIG, PORT = 2, 3
STORE_URLS = {"CACHE_REDIS_URL": parse_redis_url, "LLM_CALLS_DATABASE_URL": parse_postgres_url}
INCLUDE_SECTION = re.compile(r"^include:[ \t]*\n((?:[ \t]*-.*\n?)+)", re.MULTILINE)


def main(words: list[str] | None = None) -> int:
    """Run the sidecar until it is told to stop."""
    flags = argparse.ArgumentParser(prog="llm-proxy sidecar", description="Run one LiteLLM process.")
    flags.add_argument("--config", type=Path, required=True)
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=4001)
    flags.add_argument(
        "--workers", type=int, choices=[1], default=1, help="always 1; run more processes instead"
    )
    asked = flags.parse_args(words)
    harden_process()
    try:
        text = "\n".join(_config_texts(asked.config))
    except (OSError, UnicodeDecodeError) as problem:
        return _fail(EXIT_CONFIG, f"{asked.config}: cannot be read: {problem}")
    listener = _bind(asked.host, asked.port)
    if isinstance(listener, str):
        return _fail(PORT, listener)
    release = version("litellm")
    if is_malicious("litellm", release):
        return _fail(EXIT_UNSAFE, f"litellm {release} was published with malicious code and never starts")
    key = os.environ.get("LITELLM_MASTER_KEY", "")
    if not key:
        return _fail(EXIT_CONFIG, "LITELLM_MASTER_KEY is not set: the gateway's key at this sidecar")
    try:
        for name, read in STORE_URLS.items():
            if os.environ.get(name):
                os.environ[name] = parse_setting(name, os.environ[name], read)
    except InvalidURL as fault:
        return _fail(EXIT_CONFIG, str(fault))
    clean = build_environment(os.environ, text)
    os.environ.clear()
    os.environ.update(clean)
    end = ExitWithoutCleanup()
    atexit.register(end)
    # Only now: LiteLLM reads the environment while it is imported.
    from llm_proxy.sidecar.launch import run  # noqa: PLC0415

    end.code = run(asked.config.absolute(), listener, key)
    return end.code


class ExitWithoutCleanup:
    """The last thing this process does: what was registered after it has been called by then.

    Python would go on to free all that LiteLLM holds, object by object, for seconds and for nobody.
    """

    code = 1

    def __call__(self) -> None:
        """End with the code."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)


def _config_texts(config: Path) -> Iterator[str]:
    """The configuration's text, and those of the files it includes by name."""
    text = config.read_text(encoding="utf-8")
    yield text
    for listed in INCLUDE_SECTION.findall(text):
        for named in listed.split("\n"):
            beside = config.parent / named.strip().removeprefix("-").strip().strip("'\"")
            yield beside.read_text(encoding="utf-8") if beside.is_file() else ""


def _bind(host: str, port: int) -> socket.socket | str:
    """A bound socket that does not listen yet, or what is wrong with the address."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as problem:
        return f"cannot listen on {host}:{port}: {problem.strerror}"
    return bound


def _fail(code: int, message: str) -> int:
    print(f"sidecar: {message}", file=sys.stderr, flush=True)  # noqa: T201 -- the one line a person reads
    return code


if __name__ == "__main__":
    sys.exit(main())
