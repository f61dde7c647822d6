"""The sidecars' own address of the database, made from the owner's."""

import stat
from pathlib import Path

import pytest

from llm_proxy.stack.call_log_address import call_log_address, write_address

ROLE = "llm_proxy_sidecar"


@pytest.mark.parametrize(
    ("owners", "made"),
    [
        ("postgresql://o:canary@h/db", f"postgresql://{ROLE}:p%2Fw@h/db"),
        (
            "postgres://o:ca%40nary@h:5433/db?sslmode=require",
            f"postgres://{ROLE}:p%2Fw@h:5433/db?sslmode=require",
        ),
        ("postgresql://o:canary@h/db?pgbouncer=true&connection_limit=5", f"postgresql://{ROLE}:p%2Fw@h/db"),
        (
            "postgresql:///db?host=/cloudsql/x&user=o&password=canary",
            f"postgresql://{ROLE}:p%2Fw@/db?host=/cloudsql/x",
        ),
        ("postgresql://o@h1:1,h2:2/db", f"postgresql://{ROLE}:p%2Fw@h1:1,h2:2/db"),
        (
            "postgresql://postgres.ref:canary@x.pooler.supabase.com:6543/postgres",
            f"postgresql://{ROLE}.ref:p%2Fw@x.pooler.supabase.com:6543/postgres",
        ),
    ],
)
def test_only_role_and_password_are_others(owners: str, made: str) -> None:
    """Host, database and TLS stay; nothing of the owner's credentials does."""
    assert call_log_address(owners, "p/w") == made


def test_the_file_can_be_read_by_the_sidecars_user_and_is_removed_when_it_is_not_wanted(
    tmp_path: Path,
) -> None:
    """Whatever an earlier start has written."""
    file = tmp_path / "data" / "LLM_CALLS_DATABASE_URL"
    file.parent.mkdir(mode=0o700)
    given = {"DATABASE_URL": "postgresql://o:canary@h/db", "SIDECAR_DB_PASSWORD": "word"}
    for _ in range(2):
        assert write_address(file, given) is None
        assert file.read_text() == f"postgresql://{ROLE}:word@h/db"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (file.parent, file)] == [0o755, 0o444]
    for changed in ({"LLM_CALLS": "given"}, {"SIDECAR_DB_PASSWORD": ""}):
        assert write_address(file, given) is None
        assert write_address(file, given | changed) is None
        assert not file.exists()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "DATABASE_URL and REDIS_URL"),
        ({"OWN_REDIS": "given"}, "DATABASE_URL"),
        ({"OWN_DATABASE": "given"}, "REDIS_URL"),
    ],
)
def test_managed_stores_without_an_address_end_the_start(
    given: dict[str, str], missing: str, tmp_path: Path
) -> None:
    """Compose goes on when an optional container fails, so this one names what is missing."""
    asked = {
        "PROFILES": "edge,managed-db",
        "DATABASE_URL": "postgresql://llm_proxy:@postgres/x",
        "SIDECAR_DB_PASSWORD": "word",
    }
    said = write_address(tmp_path / "file", asked | given)
    assert said == f"the profile managed-db needs {missing} in .env"
    assert write_address(tmp_path / "file", asked | {"OWN_REDIS": "given", "OWN_DATABASE": "given"}) is None


def test_a_wrong_address_is_named_without_a_part_of_it(tmp_path: Path) -> None:
    """And nothing is written."""
    file = tmp_path / "LLM_CALLS_DATABASE_URL"
    said = write_address(file, {"DATABASE_URL": "mysql://o:canary@h/db", "SIDECAR_DB_PASSWORD": "word"})
    assert said is not None
    assert said.startswith("DATABASE_URL: ")
    assert "canary" not in said
    assert write_address(file, {}) == "DATABASE_URL is not set"
    assert not file.exists()
