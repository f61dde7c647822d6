"""A LiteLLM proxy's database: made by LiteLLM's own migrations, filled with rows as LiteLLM writes them.

Digests of keys and ciphertexts come from LiteLLM's own functions, run in LiteLLM's environment.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from llm_proxy.stack import process_specs

BASELINE = "20250326162113_baseline"
_DEFAULTS: Mapping[str, object] = {"text": "tests", "jsonb": "{}", "timestamp": datetime(2026, 1, 1)}  # noqa: DTZ001 -- Prisma's times have no zone
_EMPTY: list[str] = []
_WRITE = """
import base64, json, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from litellm.proxy.common_utils import encrypt_decrypt_utils as crypt
from litellm.proxy.utils import hash_token
asked = json.load(sys.stdin)
salt = asked["salt"]
print(json.dumps({
    "digests": [hash_token(key) for key in asked["keys"]],
    "xsalsa20": [base64.urlsafe_b64encode(crypt.encrypt_value(one, salt)).decode() for one in asked["texts"]],
    "aes": [crypt._encrypt_aes_gcm(one, salt) for one in asked["texts"]],
}))
"""


@dataclass(frozen=True, slots=True)
class StoredByLiteLLM:
    """What LiteLLM stores: of each key its digest, of each text the ciphertext of its two algorithms."""

    digests: Mapping[str, str]
    xsalsa20: Mapping[str, str]
    aes: Mapping[str, str]


def stored_by_litellm(keys: Sequence[str], texts: Sequence[str], salt: str) -> StoredByLiteLLM:
    """Runs LiteLLM's own functions in its environment."""
    asked = json.dumps({"keys": [*keys], "texts": [*texts], "salt": salt})
    python = str(process_specs.sidecar_python())
    done = subprocess.run(
        [python, "-c", _WRITE], input=asked, capture_output=True, text=True, timeout=120, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return StoredByLiteLLM(
        dict(zip(keys, answer["digests"], strict=True)),
        *(dict(zip(texts, answer[name], strict=True)) for name in ("xsalsa20", "aes")),
    )


def migrations(until: str = "~") -> list[Path]:
    """Returns LiteLLM's migrations up to one, which tells the generation of its schema."""
    packages = process_specs.sidecar_python().parents[1] / "lib"
    [folder] = packages.glob("python3*/site-packages/litellm_proxy_extras/migrations")
    return [one / "migration.sql" for one in sorted(folder.iterdir()) if one.is_dir() and one.name <= until]


async def make_database(url: str, until: str = "~") -> None:
    """Makes the tables of a generation of LiteLLM's schema."""
    connection = await asyncpg.connect(url)
    try:
        for file in migrations(until):
            await connection.execute(file.read_text(encoding="utf-8"))
    finally:
        await connection.close()


class LiteLLMDatabase:
    """Writes rows into a LiteLLM proxy's database."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def insert(self, table: str, **row: Any) -> None:
        """Inserts a row; columns that must have a value and got none get one, as LiteLLM's client does it."""
        columns = await self._connection.fetch(
            "SELECT column_name, data_type, is_nullable = 'NO' AND column_default IS NULL AS needed"
            " FROM information_schema.columns WHERE table_name = $1",
            f"LiteLLM_{table}",
        )
        types: dict[str, str] = {one["column_name"]: one["data_type"] for one in columns}
        needed: dict[str, Any] = {
            one["column_name"]: next(
                (value for name, value in _DEFAULTS.items() if one["data_type"].startswith(name)), _EMPTY
            )
            for one in columns
            if one["needed"]
        }
        whole: dict[str, Any] = needed | {name: value for name, value in row.items() if name in types}
        assert row.keys() <= types.keys(), f"{table} has no {row.keys() - types.keys()}"
        values: list[Any] = [
            json.dumps(value) if types[name] == "jsonb" and not isinstance(value, str) else value
            for name, value in whole.items()
        ]
        names = ", ".join(f'"{name}"' for name in whole)
        places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        await self._connection.execute(f'INSERT INTO "LiteLLM_{table}" ({names}) VALUES ({places})', *values)  # noqa: S608 -- names of the test

    async def execute(self, statement: str, *values: object) -> None:
        """Runs a statement."""
        await self._connection.execute(statement, *values)
