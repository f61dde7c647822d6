"""`llm-proxy init`: writes the folder that `llm-proxy up` and Docker Compose start from.

Invariants: no file is replaced: where one exists nothing is written, and it is named. `--dry-run` writes
nothing and prints no secret. It prompts on a terminal only, and only for what no option sets.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from llm_proxy.cli.init.choices import Choices, Proxy
from llm_proxy.cli.init.folder import (
    COMPOSE_FILE,
    IMAGE_FOLDER,
    IMAGE_UID,
    IN_SETTINGS_FILE,
    KEYS_FOLDER,
    MODELS_FILE,
    SETTINGS_FILE,
    PlannedFile,
    chosen_providers,
    planned_files,
    shipped_providers,
)
from llm_proxy.cli.printing import EXIT_WRONG_INPUT, as_json_option, fail, print_json
from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.redis_urls import parse_redis_url
from llm_proxy.service_urls import InvalidURL, check_host

_UNQUOTABLE = frozenset("'\\\n\r\0")
_SECRET_LINE = re.compile(r"(?m)^((?!LLM_PROXY__CONSOLE_)\w+_(?:KEYS?|PASSWORD|URL))=.*$")
_SUMMARY = {
    MODELS_FILE: "the models that are served",
    SETTINGS_FILE: "settings and new random secrets; only you can read it",
    f"{KEYS_FOLDER}/": "the providers' keys, one file each",
    ".gitignore": "keeps secrets and data out of git",
    COMPOSE_FILE: "for Docker Compose",
    "gateway.env": "settings of the gateway under Compose",
    f"{IMAGE_FOLDER}/": "what Compose builds the images from",
    "deploy/": "scripts for Compose, and the proxy in front",
}


def _check_hostname(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name:
        try:
            check_host(name)
        except InvalidURL as fault:
            raise click.BadParameter(f"{name!r} is not a host name: {fault}.") from None
    return name or None


def _check_url(name: str, url: str | None, parse: Callable[[str], str]) -> str | None:
    if not url:
        return None
    try:
        parse(url)
    except InvalidURL as fault:
        raise click.BadParameter(f"{fault}.", param_hint=f"'{name}'") from None
    return _writable(name, url)


def _writable(name: str, value: str) -> str:
    if _UNQUOTABLE & set(value):
        raise click.BadParameter(
            "a quote, a backslash or a line break cannot be written into .env; percent-encode it.",
            param_hint=f"'{name}'",
        )
    return value


def _check_providers(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    known = shipped_providers()
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}.")
    return names


@click.command(context_settings={"show_default": True})
@click.argument(
    "folder", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="[FOLDER]"
)
@click.option(
    "--provider",
    "providers",
    multiple=True,
    callback=_check_providers,
    help="A provider whose models are served, such as openai, anthropic, gemini, groq or ollama; repeatable. "
    "Without one, each provider is served as soon as its key is set.",
)
@click.option(
    "--keys-from-environment", is_flag=True, help="Copy the providers' keys of this environment into .keys/."
)
@click.option("--test-model/--no-test-model", default=True, help="Serve the small test models, too.")
@click.option("--database-url", help="A Postgres of your own; without it one is started for you.")
@click.option("--redis-url", help="A Redis or Valkey of your own; without it one is started for you.")
@click.option("--port", type=click.IntRange(1, 65535), default=7007, help="Port of the gateway.")
@click.option("--console/--no-console", default=True, help="Run the web console.")
@click.option("--console-port", type=click.IntRange(1, 65535), default=7070, help="Port of the console.")
@click.option("--hostname", callback=_check_hostname, help="The public name; TLS ends in the proxy in front.")
@click.option("--proxy", type=click.Choice(get_args(Proxy)), default="nginx", help="The proxy in front.")
@click.option("--compose/--no-compose", default=True, help="Write the files of Docker Compose.")
@click.option(
    "--sidecars", type=click.IntRange(1, 64), default=2, help="LiteLLM processes under Compose, 0.5 GB each."
)
@click.option("--yes", is_flag=True, help="Ask nothing: what no option sets has its default.")
@click.option(
    "--dry-run", is_flag=True, help="Show what would be written, with no secret, and write nothing."
)
@as_json_option
@click.pass_context
def init(
    context: click.Context,
    /,
    *,
    folder: Path,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401 -- click's options
) -> None:
    """Write the configuration, settings, secrets and Compose files of an installation into FOLDER.

    Asks on a terminal for what no option sets. Replaces no file. Afterwards `llm-proxy up` starts everything
    on this machine, and `docker compose up -d --build` does so in containers.
    """
    if sys.stdin.isatty() and not (yes or as_json):
        _ask(context, options)
    choices = _choices(options)
    files = list(planned_files(choices))
    existing = _top_names(one for one in files if (folder / one.path).exists() and one.path != ".gitignore")
    if existing:
        there = f"{folder.absolute()} already has {', '.join(existing)}"
        fail(f"{there}: nothing was written. Name another folder, or move what is there")
    if not dry_run:
        _write(folder, files)
    if as_json:
        print_json(
            {"folder": str(folder.absolute()), "written": not dry_run, "files": [one.path for one in files]}
        )
        return
    _print_files(folder, files, dry_run=dry_run)
    if not dry_run:
        _print_next_steps(folder, choices)


def _ask(context: click.Context, options: dict[str, Any]) -> None:
    """Asks for what no option set."""

    def is_open(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.DEFAULT

    if is_open("providers"):
        click.echo(f"Providers: {', '.join(shipped_providers())}")
        text = click.prompt(
            "Which do you use? (separated by commas; empty: each, as soon as its key is set)",
            "",
            show_default=False,
        )
        names = tuple(name for name in text.replace(",", " ").split() if name)
        options["providers"] = _check_providers(context, context.command.params[1], names)
    options["asked_values"] = _ask_values(options)
    if is_open("database_url"):
        options["database_url"] = click.prompt(
            "Address of your Postgres (empty: one is started)", "", show_default=False
        )
    if is_open("redis_url"):
        options["redis_url"] = click.prompt(
            "Address of your Redis (empty: one is started)", "", show_default=False
        )
    if is_open("port"):
        options["port"] = click.prompt("Port of the gateway", options["port"], type=click.IntRange(1, 65535))
    if is_open("console"):
        options["console"] = click.confirm("The web console?", default=options["console"])
    if is_open("hostname"):
        name = click.prompt("Public host name, for TLS (empty: none)", "", show_default=False)
        options["hostname"] = _check_hostname(context, context.command.params[0], name)
    if options["hostname"] and is_open("proxy"):
        options["proxy"] = click.prompt("What ends TLS", options["proxy"], type=click.Choice(get_args(Proxy)))
    if is_open("compose"):
        options["compose"] = click.confirm("Files for Docker Compose, too?", default=options["compose"])


def _ask_values(options: Mapping[str, Any]) -> dict[str, str]:
    """Asks for the keys and addresses of the chosen providers; an empty answer leaves one for later."""
    answers: dict[str, str] = {}
    for provider in chosen_providers(options["providers"]):
        for name in provider.variables:
            if os.environ.get(name) and options["keys_from_environment"]:
                continue
            is_secret = name.endswith("_KEY")
            answers[name] = click.prompt(
                f"{name} (empty: later)", "", hide_input=is_secret, show_default=False
            )
    return {name: value.strip() for name, value in answers.items() if value.strip()}


def _choices(options: Mapping[str, Any]) -> Choices:
    """Checks what was given; raises `click.BadParameter`."""
    database = _check_url("--database-url", options["database_url"], parse_postgres_url)
    redis = _check_url("--redis-url", options["redis_url"], parse_redis_url)
    if options["compose"] and (database is None) is not (redis is None):
        missing = "--redis-url" if redis is None else "--database-url"
        fail(f"Compose starts both stores or neither: give {missing}, too, or --no-compose", EXIT_WRONG_INPUT)
    values: dict[str, str] = {}
    if options["keys_from_environment"]:
        providers = chosen_providers(options["providers"]) or shipped_providers().values()
        wanted = (name for one in providers for name in one.variables)
        values = {name: os.environ[name] for name in wanted if os.environ.get(name)}
    values |= options.get("asked_values", {})
    return Choices(
        providers=options["providers"],
        provider_values={name: _writable(name, value) for name, value in values.items()},
        has_test_model=options["test_model"],
        database_url=database,
        redis_url=redis,
        port=options["port"],
        console_port=options["console_port"] if options["console"] else None,
        hostname=options["hostname"],
        proxy=options["proxy"],
        sidecars=options["sidecars"] if options["compose"] else None,
    )


def _write(folder: Path, files: list[PlannedFile]) -> None:
    """Writes the files; the secret ones are never readable by others, not even for a moment."""
    try:
        for one in files:
            target = folder / one.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():  # a .gitignore, which is the operator's
                continue
            if isinstance(one.content, Path) and one.content.is_dir():
                shutil.copytree(one.content, target, ignore=shutil.ignore_patterns("__pycache__", "shipped"))
                continue
            content = one.content.read_bytes() if isinstance(one.content, Path) else one.content.encode()
            with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, one.mode), "wb") as stream:
                os.fchmod(stream.fileno(), one.mode)
                stream.write(content)
            if one.path.startswith(KEYS_FOLDER) and os.getuid() == 0:
                os.chown(target, IMAGE_UID, IMAGE_UID)  # LiteLLM's container never runs as root
    except OSError as fault:
        fail(f"{fault.filename}: {fault.strerror}")


def _print_files(folder: Path, files: list[PlannedFile], *, dry_run: bool) -> None:
    click.echo(f"{'would write into' if dry_run else 'written into'} {folder.absolute()}:")
    for name in _top_names(files):
        click.echo(f"  {name:<20} {_SUMMARY[name]}")
    for one in files if dry_run else ():
        if isinstance(one.content, str) and one.path in {MODELS_FILE, SETTINGS_FILE}:
            text = _SECRET_LINE.sub(r"\1=…", one.content) if one.is_secret else one.content
            click.echo(f"\n--- {one.path}\n{text}", nl=False)


def _top_names(files: Iterable[PlannedFile]) -> list[str]:
    """Returns the files and folders right below the installation's folder."""
    names = (one.path.partition("/") for one in files)
    return list(dict.fromkeys(name + slash for name, slash, _ in names))


def _print_next_steps(folder: Path, choices: Choices) -> None:
    lines = [f"cd {folder}"] if folder != Path() else []
    missing = [
        name
        for one in chosen_providers(choices.providers)
        for name in one.variables
        if name not in choices.provider_values
    ]
    if not choices.providers and not choices.provider_values:
        missing = ["OPENAI_API_KEY"]
    for name in missing:
        target = f">> {SETTINGS_FILE}" if name in IN_SETTINGS_FILE else f"> {KEYS_FOLDER}/{name}"
        word = f"{name}=http://…" if name in IN_SETTINGS_FILE else "…"
        lines.append(f"(umask 077; echo {word} {target})")
    lines.append("llm-proxy up                      # everything on this machine")
    if choices.sidecars is not None:
        lines.append("docker compose up -d --build      # or in containers")
    if choices.hostname is not None:
        name = "nginx.conf" if choices.proxy == "nginx" else "Caddyfile"
        lines.append(f"less deploy/{name}            # the first lines say where it goes")
    click.echo("\nNext:\n" + "\n".join(f"  {line}" for line in lines))
