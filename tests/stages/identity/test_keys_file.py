"""Faults of a `keys.yaml`: by file, line and entry, before anything is applied, on a real Postgres."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.identity import Actor, KeyRepository, PolicyRepository
from llm_proxy.identity.admin_documents import parse_key_spec
from llm_proxy.identity.keys_file import ApplyResult, apply_keys_file, load_keys_file
from llm_proxy.identity.virtual_keys import generate_key

if TYPE_CHECKING:
    import asyncpg

ME = Actor("test")
SECRET = "sk-llmp-abcdefghijkl-0123456789abcdefghijklmnopqrstuvwxyzAB"
GOOD = "keys:\n  - name: first\n    tenant: acme\n"
FAULTS: dict[str, tuple[str, str]] = {
    "the same name twice": (
        "  - {name: twin, tenant: a}\n  - {name: twin, tenant: b}\n",
        ":5: keys entry 3 ('twin'): the same name as in keys entry 2 ('twin'), line 4",
    ),
    "a field twice": ("  - name: x\n    rpm: 1\n    rpm: 2\n", ":6: 'rpm' stands twice"),
    "an unknown field": ("  - name: x\n    colour: red\n", ":5: keys entry 2 ('x'): Unknown field 'colour'"),
    "a number out of range": ("  - name: x\n    rpm: -1\n", ":5: keys entry 2 ('x'): Invalid 'rpm'"),
    "a name that is a date": (
        "  - name: 2026-11-01\n",
        ":4: keys entry 2: Invalid 'name': expected 1 to 256 printable characters. YAML reads it as a date",
    ),
    "a tenant that is a truth value": ("  - name: x\n    tenant: no\n", "truth value: put it in quotes"),
    "a tenant that is a number": ("  - name: x\n    tenant: 1.5\n", "number: put it in quotes"),
    "no such day": ("  - name: x\n    expires_at: 2026-11-31\n", ":5: no such date or time"),
    "a day before all days": (
        "  - name: x\n    expires_at: 0001-01-01T00:00:00+14:00\n",
        ":5: keys entry 2 ('x'): Invalid 'expires_at'",
    ),
    "a zone that is none": ("  - {name: x, expires_at: 2026-11-01T10:00:00+25:00}\n", ":4: no such date"),
    "a day out of range": ("  - name: x\n    expires_at: 1999-01-01\n", ":5: keys entry 2 ('x'): Invalid"),
    "an entry that is none": ("  - just-a-name\n", ":4: keys entry 2: expected fields"),
    "a budget twice": (
        "  - name: x\n    budgets: [{limit_usd: 1, period: day}, {limit_usd: 2, period: day}]\n",
        ":5: keys entry 2 ('x'): Invalid 'budgets'",
    ),
    "a limit twice": (
        "limits:\n  - {scope: tenant, tenant: acme, rpm: 1}\n  - {scope: tenant, tenant: acme, rpm: 2}\n",
        ":6: limits entry 2 ('acme'): the same scope and subject as in limits entry 1 ('acme'), line 5",
    ),
    "a switch of a kind that is none": ("kills:\n  - {kind: cat, subject: x}\n", ":5: kills entry 1 ('x')"),
    "a section that is none": ("keyz: []\n", ":4: unknown section 'keyz'"),
    "a section twice": ("keys: []\n", ":4: 'keys' stands twice"),
    "a section that is no list": ("limits: {scope: tenant}\n", ":4: 'limits' must be a list"),
    "no YAML": ("  - {name: x\n", ":5: "),
    "a tab": ("\t- name: x\n", ":4: "),
    "a character that is none": ('  - name: "\x07"\n', "a character that YAML does not allow"),
    "a key for a name": (f"  - name: {SECRET}\n", ":4: keys entry 2 ('sk-[redacted]'): A key needs a name"),
    "a key for a field": (f"  - name: x\n    {SECRET}: 1\n", ":5: keys entry 2 ('x'): Unknown field 'sk-["),
    "a key file that is none": (
        "  - name: x\n    key_file: nothing\n",
        ":5: keys entry 2 ('x'): the key_file",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_line_and_entry_and_no_part_of_a_key(tmp_path: Path, fault: str) -> None:
    """Good entries before it are not applied: the complete file is read first."""
    text, reported = FAULTS[fault]
    file = tmp_path / "keys.yaml"
    file.write_text(GOOD + text)
    with pytest.raises(BadRequest) as raised:
        load_keys_file(file)
    message = raised.value.message
    assert message.startswith(str(file))
    assert reported in message
    assert "\n" not in message
    assert SECRET[8:] not in message


def test_a_date_without_quotes_is_midnight_utc_and_a_merged_entry_is_read(tmp_path: Path) -> None:
    """As YAML defines both."""
    file = tmp_path / "keys.yaml"
    file.write_text(
        "keys:\n  - &base {name: a, expires_at: 2040-01-01}\n  - {<<: *base, name: b}\n"
        '  - {name: c, expires_at: "2040-01-01T00:00:00Z"}\n  - {name: d, expires_at: 2040-01-01 00:00:00}\n'
    )
    keys = load_keys_file(file).keys
    assert [one.spec.name for one in keys] == ["a", "b", "c", "d"]
    assert len({one.spec.expires_at for one in keys}) == 1


def test_all_faults_of_a_file_are_reported_one_a_line(tmp_path: Path) -> None:
    """In the order of sections and entries; duplicates last."""
    file = tmp_path / "keys.yaml"
    file.write_text(
        GOOD + "  - {name: x, rpm: -1}\n  - {name: y, colour: red}\n  - name: first\n"
        "limits:\n  - {scope: tenant, tenant: acme}\nkills:\n  - {kind: cat, subject: x}\n"
    )
    with pytest.raises(BadRequest) as reported:
        load_keys_file(file)
    lines = reported.value.message.removeprefix(str(tmp_path)).split(f"\n{tmp_path}")
    assert [line.removeprefix("/keys.yaml").split(": ")[0] for line in lines] == [
        ":4", ":5", ":8", ":10", ":6",
    ]  # fmt: skip


async def test_the_result_has_generated_secrets_only_and_names_expired_keys(
    pool: "asyncpg.Pool[asyncpg.Record]", tmp_path: Path
) -> None:
    """The secret of a `key_file` is known already."""
    (tmp_path / "one.key").write_text(generate_key().text)
    file = tmp_path / "keys.yaml"
    file.write_text(GOOD + "    key_file: one.key\n  - {name: old, expires_at: 2020-01-01}\n")
    done = await applied(pool, file)
    assert done.changes == ["key first made", "key old made; it expired on 2020-01-01"]
    reported = [(mutation.record.spec.name, mutation.generated is None) for mutation in done.created]
    assert reported == [("first", True), ("old", False)]


async def test_a_revoked_key_that_is_still_listed_stops_the_file(
    pool: "asyncpg.Pool[asyncpg.Record]", tmp_path: Path
) -> None:
    """Nothing is applied; with `revoked: true` it is."""
    repository = KeyRepository(pool)
    await repository.create(parse_key_spec({"name": "gone"}), ME)
    await repository.revoke("gone", ME)
    file = tmp_path / "keys.yaml"
    file.write_text(GOOD + "  - name: gone\n")
    with pytest.raises(BadRequest, match=r"keys\.yaml:4: keys entry 2 \('gone'\): this key was revoked at"):
        await applied(pool, file)
    assert [one.spec.name for one in await repository.list_keys()] == ["gone"]
    file.write_text(GOOD + "  - {name: gone, revoked: true}\n")
    assert (await applied(pool, file)).changes == ["key first made"]


async def test_another_key_s_secret_stops_the_file(
    pool: "asyncpg.Pool[asyncpg.Record]", tmp_path: Path
) -> None:
    """Of this file, or of the database."""
    secret = generate_key()
    (tmp_path / "one.key").write_text(secret.text)
    file = tmp_path / "keys.yaml"
    file.write_text(GOOD + "    key_file: one.key\n  - {name: second, key_file: one.key}\n")
    with pytest.raises(BadRequest, match="the same key_file's secret as in keys entry 1"):
        await applied(pool, file)
    await KeyRepository(pool).create(parse_key_spec({"name": "other"}), ME, secret)
    file.write_text(GOOD + "    key_file: one.key\n")
    with pytest.raises(
        BadRequest, match=r":4: keys entry 1 \('first'\): its key_file holds the secret"
    ) as reported:
        await applied(pool, file)
    assert secret.lookup not in reported.value.message


async def applied(pool: "asyncpg.Pool[asyncpg.Record]", file: Path) -> ApplyResult:
    """The file, applied."""
    return await apply_keys_file(load_keys_file(file), KeyRepository(pool), PolicyRepository(pool), ME)
