"""`llm-proxy import litellm`: takes over what a LiteLLM proxy's database has.

Invariants: without `--apply` nothing is written, neither in the database nor on disk; LiteLLM's
database is only read; no secret is printed, and the file that gets them is readable by its owner alone. An
import that would lose a limit, budget or restriction is refused until the operator accepts it.
"""

import asyncio
import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from llm_proxy.cli.context import load_settings, operator_env
from llm_proxy.cli.database import current_actor, database_url, publish_change, run_or_fail, tls_for
from llm_proxy.cli.printing import (
    EXIT_FAILED,
    EXIT_UNAVAILABLE,
    EXIT_WRONG_INPUT,
    Column,
    as_json_option,
    fail,
    print_json,
    print_table,
    warn,
)
from llm_proxy.cli.stack import sidecar_interpreter
from llm_proxy.identity.postgres_store import open_pool
from llm_proxy.json_access import Json, as_object
from llm_proxy.litellm_import.apply import ImportChange, ImportResult, apply_import, planned_changes
from llm_proxy.litellm_import.config_file import ConfigFile, build_config
from llm_proxy.litellm_import.mapping import plan_import
from llm_proxy.litellm_import.plan import ImportPlan
from llm_proxy.litellm_import.source import NoLiteLLMDatabase, SourceRows, read_source
from llm_proxy.postgres_urls import parse_postgres_url
from llm_proxy.schema.database import DatabaseUnavailable
from llm_proxy.service_urls import InvalidURL
from llm_proxy.stack.process_specs import VERIFIED_ENTRY_POINT

DECRYPT_TIMEOUT_S = 300
_SALT, _MASTER_KEY = "LITELLM_SALT_KEY", "LITELLM_MASTER_KEY"
_DECRYPTER = Path(__file__).parents[1] / "sidecar" / "litellm_secrets.py"
_HEADER = "# Made by `llm-proxy import litellm`; SHA-256 of what follows: "


@click.command("litellm")
@click.option(
    "--from",
    "url",
    envvar="LITELLM_DATABASE_URL",
    metavar="DATABASE_URL",
    help="LiteLLM's own database [default: LITELLM_DATABASE_URL, which no list of processes shows].",
)
@click.option("--apply/--dry-run", "is_applied", default=False, help="Write, or only show [default].")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The LiteLLM proxy's configuration file: its models' access groups are looked up there.",
)
@click.option(
    "--without-models", is_flag=True, help="Leave out models, credentials, guardrails and settings."
)
@click.option(
    "--models-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("litellm-config.imported.yaml"),
    show_default=True,
    help="Gets models, credentials, guardrails and settings.",
)
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(".env.imported"),
    show_default=True,
    help="Gets the secrets that the models file names.",
)
@click.option(
    "--source",
    default="litellm",
    show_default=True,
    help="A name for this LiteLLM proxy, if you import several.",
)
@click.option(
    "--accept",
    is_flag=True,
    help="Import although limits, budgets or restrictions are lost, or most keys revoked.",
)
@as_json_option
def import_litellm(*, url: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401 -- click's options
    """Take over a LiteLLM proxy's models, teams, users, keys, limits and budgets from its database.

    Keys keep working: LiteLLM stores their SHA-256, and so does the gateway. A second run takes over what
    changed. What LiteLLM encrypted is read with LITELLM_SALT_KEY or, without one, LITELLM_MASTER_KEY.
    """
    if url is None:
        fail("name the LiteLLM proxy's database with --from or LITELLM_DATABASE_URL", EXIT_WRONG_INPUT)
    secrets = _encryption_keys()
    rows = _read(url)
    config: Path | None = options["config"]
    plan = plan_import(rows, _read_yaml(config), _digest_of_master_key())
    made = ConfigFile()
    if not options["without_models"]:
        made = build_config(rows, plan, lambda values: _decrypt(secrets, values))
    lost = [note for note in plan.notes if note.kind == "lost"]
    is_refused = options["is_applied"] and bool(lost) and not options["accept"]
    is_applied = options["is_applied"] and not is_refused
    files = {options["models_file"]: made.yaml_text(), options["env_file"]: made.env_text()}
    written = _prepare_files(files, options["env_file"]) if is_applied else {}
    try:
        result = _apply(plan, options["source"], dry_run=not is_applied, revokes_most=options["accept"])
    except BaseException:
        for draft in written.values():
            draft.unlink(missing_ok=True)
        raise
    _put_in_place(written)
    document = _document(
        plan, made, result, is_applied=is_applied, files=[str(one) for one, text in files.items() if text]
    )
    if as_json:
        print_json(document)
    else:
        _print_report(document)
    if is_refused:
        fail(
            f"nothing was imported: {len(lost)} limits, budgets or restrictions would be lost; see --accept",
            EXIT_FAILED,
        )


def _encryption_keys() -> list[str]:
    variables = operator_env().variables
    return [variables[name] for name in (_SALT, _MASTER_KEY) if name in variables]


def _digest_of_master_key() -> str:
    key = operator_env().variables.get(_MASTER_KEY)
    return hashlib.sha256(key.encode()).hexdigest() if key else ""


def _read(url: str) -> SourceRows:
    try:
        address = parse_postgres_url(url)
        return asyncio.run(read_source(address, tls_for(address)))
    except InvalidURL as fault:
        fail(f"--from: {fault}", EXIT_WRONG_INPUT)
    except NoLiteLLMDatabase as fault:
        fail(f"--from: {fault}", EXIT_WRONG_INPUT)
    except DatabaseUnavailable as fault:
        fail(f"--from: LiteLLM's database cannot be read: {fault.reason}", EXIT_UNAVAILABLE)


def _read_yaml(file: Path | None) -> Json:
    if file is None:
        return {}
    try:
        return as_object(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        fail(f"{file}: cannot be read: {' '.join(str(fault).split())[:200]}", EXIT_WRONG_INPUT)


def _decrypt(keys: Sequence[str], values: Sequence[str]) -> list[str | None]:
    """Decrypts values with LiteLLM's own code, in LiteLLM's environment."""
    if not keys:
        fail(
            f"the models' values are encrypted: set {_SALT}, or {_MASTER_KEY} if LiteLLM had no salt key,"
            " or give --without-models",
            EXIT_WRONG_INPUT,
        )
    python = sidecar_interpreter()
    request = json.dumps({"keys": [*keys], "values": [*values]})
    try:
        subprocess.run([python, "-I", "-S", str(VERIFIED_ENTRY_POINT), "--check"], check=True)
        done = subprocess.run(
            [python, "-I", str(_DECRYPTER)],
            input=request,
            capture_output=True,
            text=True,
            timeout=DECRYPT_TIMEOUT_S,
            check=True,
        )
        answer: list[str | None] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as fault:
        fail(f"LiteLLM's environment cannot decrypt the models' values: {type(fault).__name__}")
    if not any(one is not None for one in answer):
        fail(
            f"no value of LiteLLM's database can be decrypted: {_SALT} is not LiteLLM's",
            EXIT_WRONG_INPUT,
        )
    return answer


def _apply(plan: ImportPlan, source: str, *, dry_run: bool, revokes_most: bool) -> ImportResult:
    if dry_run and load_settings().database_url is None:
        warn("DATABASE_URL is not set: everything is shown as new")
        return ImportResult([*planned_changes(plan)])
    address = database_url()

    async def applied() -> ImportResult:
        async with open_pool(address, tls_for(address)) as pool:
            result = await apply_import(
                pool, plan, source, current_actor(), dry_run=dry_run, revokes_most=revokes_most
            )
            await publish_change(result.epochs)
            return result

    return run_or_fail(applied())


def _prepare_files(files: dict[Path, str], secret: Path) -> dict[Path, Path]:
    """Writes each text beside its file, to be renamed; ends the command for a file edited by hand.

    The file `secret` can be read by its owner alone.
    """
    prepared: dict[Path, Path] = {}
    for file, body in files.items():
        text = f"{_HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"
        if not body or _same_text(file, text):
            continue
        draft = file.with_name(f"{file.name}.new")
        try:
            mode = 0o600 if file == secret else 0o644
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, mode)
                stream.write(text)
        except OSError as fault:
            fail(f"{draft}: cannot be written: {fault.strerror}", EXIT_WRONG_INPUT)
        prepared[file] = draft
    return prepared


def _same_text(file: Path, text: str) -> bool:
    """Whether a file has this text already; ends the command if it is not as an import left it."""
    if not file.exists():
        return False
    try:
        found = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    header, _, body = found.partition("\n")
    if header != _HEADER + hashlib.sha256(body.encode()).hexdigest():
        fail(
            f"{file} is not as an import left it: name another with --models-file or --env-file",
            EXIT_WRONG_INPUT,
        )
    return found == text


def _put_in_place(prepared: dict[Path, Path]) -> None:
    for file, draft in prepared.items():
        draft.replace(file)


def _document(
    plan: ImportPlan, made: ConfigFile, result: ImportResult, *, is_applied: bool, files: list[str]
) -> Json:
    return {
        "applied": is_applied,
        "models": made.models,
        "secrets": len(made.variables),
        "files": files,
        "changes": [_change_document(one) for one in result.changes],
        "notes": [{"kind": one.kind, "subject": one.subject, "message": one.message} for one in plan.notes],
    }


def _change_document(one: ImportChange) -> Json:
    return {
        "kind": one.kind, "change": one.change, "name": one.name, "tenant": one.tenant, "detail": one.detail,
    }  # fmt: skip


def _print_report(document: Json) -> None:
    changes = [one for one in document["changes"] if one["change"] != "unchanged"]
    if changes:
        columns = [Column("what"), Column("change"), Column("name"), Column("tenant"), Column("detail")]
        print_table(
            columns,
            (
                [*(one[name] or "" for name in ("kind", "change", "name", "tenant", "detail"))]
                for one in changes
            ),
        )
        click.echo()
    if document["notes"]:
        rows = ([one["kind"], one["subject"], one["message"]] for one in document["notes"])
        print_table([Column("note"), Column("of"), Column("what")], rows)
        click.echo()
    counts = Counter((one["kind"], one["change"]) for one in document["changes"])
    changes = [f"{count} {kind} {change}" for (kind, change), count in sorted(counts.items())]
    click.echo(
        f"{document['models']} models, {document['secrets']} secrets; {', '.join(changes) or 'no keys'}"
    )
    verb = "is up to date" if document["applied"] else "would be written"
    for file in document["files"]:
        click.echo(f"{file} {verb}")
    if not document["applied"]:
        click.echo("a dry run: nothing was written; --apply does it")
