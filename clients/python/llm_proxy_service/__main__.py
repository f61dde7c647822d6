"""`python -m llm_proxy_service`: the older service's own server, which is `llm-proxy up` today.

Invariants: a word that the gateway has gets there, as an option or a variable; a word without a counterpart
is named with what takes its place, and refused where ignoring it would mislead. Other options are `up`'s own.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple, NoReturn

from llm_proxy_service.catalog import LoadBalanceStrategy
from llm_proxy_service.errors import LLMProxyError
from llm_proxy_service.options import ServiceOptions, complete, strategy_named

PROGRAM = "python -m llm_proxy_service"
HELP = """\
Run the gateway with its stores, LiteLLM and the small local models on this machine. It is `llm-proxy up`: its
other options, such as --port and --config, work here too (llm-proxy up --help). The options below can also be
set by LLM_PROXY_CACHE_SIZE, LLM_PROXY_CACHE_TTL, LLM_PROXY_LOAD_BALANCE and LLM_PROXY_MAX_RETRIES."""
NO_FAILOVER = (
    "without failover is not an option of the start: set `fallbacks: []` and `num_retries: 0` under "
    "router_settings in litellm-config.yaml"
)
NOT_INSTALLED = (
    "the service is llm-proxy itself, which this Python does not have. In llm-proxy's folder `make run "
    'ARGS="--port 8080"` builds all it needs and starts it; this command works with the Python of its .venv'
)
SIZE = (
    "cache size {} is not a number of answers here: the cache keeps what fits into its Valkey's memory "
    "(256 MB, or the maxmemory of the one that CACHE_REDIS_URL names)"
)


class UpCommand(NamedTuple):
    """The start that the words mean: arguments of `llm-proxy`, variables, and lines to print before it."""

    arguments: list[str]
    variables: dict[str, str]
    notes: list[str]


def translate(words: Sequence[str], environment: Mapping[str, str]) -> UpCommand:
    """The command that a line of the older service's words means.

    Raises:
        LLMProxyError: A value is not valid.
        SystemExit: Help was requested, or a word is no option's value; argparse has printed it.
    """
    known, others = _parser().parse_known_args(words)
    chosen: str | None = known.load_balance_strategy
    options = complete(
        ServiceOptions(
            cache_size=known.cache_size,
            cache_ttl=known.cache_ttl,
            load_balance_strategy=strategy_named(chosen) if chosen else None,
            max_retries=known.max_retries,
        ),
        environment,
    )
    variables = {
        "LLM_PROXY_CACHE_TTL": options.cache_ttl,
        "LLM_PROXY_LOAD_BALANCE": options.load_balance_strategy and options.load_balance_strategy.name,
        "LLM_PROXY_MAX_RETRIES": options.max_retries,
    }
    stated = {name: f"{value}" for name, value in variables.items() if value is not None}
    if options.cache_size == 0 or options.cache_ttl == 0:
        stated |= {"LLM_PROXY__CACHE_MODE": "off"}
        stated.pop("LLM_PROXY_CACHE_TTL", None)
    notes = [SIZE.format(options.cache_size)] if options.cache_size else []
    return UpCommand(["up", *others], stated, notes)


def main() -> NoReturn:
    """Become `llm-proxy up`."""
    try:
        command = translate(sys.argv[1:], os.environ)
    except LLMProxyError as fault:
        _fail(str(fault), 2)
    if find_spec("llm_proxy") is None:
        _fail(NOT_INSTALLED, 1)
    for note in command.notes:
        print(f"{PROGRAM}: {note}", file=sys.stderr)
    os.environ.pop("LLM_PROXY_CACHE_SIZE", None)  # its note is printed already
    os.environ.update(command.variables)
    os.execv(sys.executable, [sys.executable, "-m", "llm_proxy", *command.arguments])  # noqa: S606 -- this very Python


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=HELP, allow_abbrev=False)
    parser.add_argument("--cache-size", type=int, metavar="ANSWERS", help="0 keeps no answers")
    parser.add_argument("--cache-ttl", type=float, metavar="SECONDS", help="how long an answer is kept")
    parser.add_argument("--max-retries", type=int, metavar="NUMBER", help="further attempts at providers")
    parser.add_argument(
        "--load-balance-strategy",
        *("--load-balance", "--strategy"),
        metavar="STRATEGY",
        help=", ".join(one.name for one in LoadBalanceStrategy),
    )
    parser.add_argument("--enable-failover", action="store_true", help="as it is anyway")
    parser.add_argument(
        *("--no-enable-failover", "--disable-failover", "--no-failover"),
        action=_NoFailover,
        nargs=0,
        help="refused: the message says where it is set",
    )
    return parser


class _NoFailover(argparse.Action):
    """Refuses the option and says what takes its place."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(NO_FAILOVER)


def _fail(message: str, code: int) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
