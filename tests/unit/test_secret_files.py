"""`NAME_FILE`: the value of a variable in a file."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from llm_proxy.secret_files import SecretFileUnreadable, read_secret_files
from llm_proxy.settings import load, setting_errors, unknown_settings
from llm_proxy.stack.operator_env import read_operator_env


def secret(folder: Path, name: str, text: str = "of the file\n") -> str:
    """A file that holds a text; its path."""
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_value_wins_over_a_file(tmp_path: Path) -> None:
    """An empty value is none; names of other meaning are left alone."""
    path = secret(tmp_path, "secret")
    given = {
        "OPENAI_API_KEY_FILE": path,
        "GROQ_API_KEY": "own",
        "GROQ_API_KEY_FILE": path,
        "DATABASE_URL": "",
        "DATABASE_URL_FILE": path,
        "PGPASSWORD_FILE": path,
        "SSL_CERT_FILE": path,
        "LLM_PROXY__KEYS_FILE": path,
        "LLM_PROXY__CA_FILE": path,
        "AWS_WEB_IDENTITY_TOKEN_FILE": path,
        "AWS_SECRET_ACCESS_KEY_FILE": "",
    }
    found = read_secret_files(given)
    assert found == dict.fromkeys(("OPENAI_API_KEY", "DATABASE_URL", "PGPASSWORD"), "of the file")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b" \n", "holds no value"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"a\0b", "holds a null byte"),
    ],
    ids=["missing", "empty", "binary", "null"],
)
def test_an_unreadable_file_is_named_with_its_variable(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """In one line."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SecretFileUnreadable, match=rf"X_KEY_FILE: .*secret {reason}"):
        read_secret_files({"X_KEY_FILE": str(tmp_path / "secret")})


NAMES = (
    "LLM_PROXY__INTERNAL_API_KEY",
    "LLM_PROXY_SECRET",
    "LITELLM_MASTER_KEY",
    "LLM_PROXY__LITELLM_API_KEY",
)


@pytest.mark.parametrize("name", [*NAMES, "LLM_PROXY__ADMIN_KEY", "LANGFUSE_SECRET_KEY"])
@pytest.mark.parametrize("source", ["environment", ".env"])
def test_the_gateway_reads_each_secret_from_a_file(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment and in `.env`."""
    monkeypatch.chdir(tmp_path)
    line = {f"{name}_FILE": secret(tmp_path, "secret")}
    if source == "environment":
        monkeypatch.setenv(*next(iter(line.items())))
    else:
        (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in line.items()))
    shown = load()
    fields = ("internal_api_key", "litellm_master_key", "litellm_api_key", "admin_key", "langfuse_secret_key")
    values = [getattr(shown, field) for field in fields]
    assert [one.get_secret_value() for one in values if one is not None] == ["of the file"]


def test_stores_and_their_passwords_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole addresses, and passwords of addresses in several variables."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        f"DATABASE_URL_FILE={secret(tmp_path, 'db', 'postgresql://u:p@h/d')}\nREDIS_HOST=cache\n"
        f"REDIS_PASSWORD_FILE={secret(tmp_path, 'redis', 'r@w')}\n"
    )
    settings = load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://u:p@h/d"
    assert settings.limits_redis_url is not None
    assert settings.limits_redis_url.get_secret_value() == "redis://:r%40w@cache:6379/0"


def test_a_gateway_s_unreadable_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LLM_PROXY__ADMIN_KEY_FILE=/no/such\n")
    with pytest.raises(ValidationError) as caught:
        load()
    [line] = setting_errors(caught.value)
    assert line == "LLM_PROXY__ADMIN_KEY_FILE: /no/such cannot be read: No such file or directory"


def test_up_reads_files_of_providers_and_stores(tmp_path: Path) -> None:
    """The environment's file wins over `.env`'s value; the example in the banner reads the file."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=of .env\nLLM_PROXY__INTERNAL_API_KEY=of .env\n")
    path = secret(tmp_path, "secret")
    env = read_operator_env(
        {"OPENAI_API_KEY_FILE": path, "MY_OWN_TOKEN_FILE": path, "GROQ_API_KEY": "of the environment"},
        tmp_path,
    )
    assert env.variables["OPENAI_API_KEY"] == env.variables["MY_OWN_TOKEN"] == "of the file"
    assert env.files["OPENAI_API_KEY"] == Path(path)
    assert env.files["LLM_PROXY__INTERNAL_API_KEY"] == tmp_path / ".env"
    assert "GROQ_API_KEY" not in env.files


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LLM_PROXY__AGENT_RMP", "LLM_PROXY__AGENT_RPM"),
        ("LLM_PROXY_AGENT_RPM", "LLM_PROXY__AGENT_RPM"),
        ("LLM_PROXY__DATABASE_URI", "LLM_PROXY__DATABASE_URL"),
        ("LLM_PROXY__ADMIN_KEY_FIEL", "LLM_PROXY__ADMIN_KEY_FILE"),
    ],
)
def test_an_unknown_setting_is_told_with_the_nearest_one(name: str, meant: str) -> None:
    """Also where an underscore is missing."""
    assert unknown_settings({name: "1"}) == [f"{name} is no setting: did you mean {meant}?"]


def test_a_variable_without_a_counterpart_is_told() -> None:
    """With what is in its place."""
    assert "CACHE_REDIS_URL" in unknown_settings({"LLM_PROXY_CACHE_SIZE": "1000"})[0]
    assert unknown_settings({"LLM_PROXY_CACHE_TTL": "60", "LLM_PROXY_MAX_RETRIES": "3"}) == []


def test_known_names_are_not_told() -> None:
    """Settings, their files, and what has one underscore."""
    known = ("LLM_PROXY__AGENT_RPM", "LLM_PROXY__ADMIN_KEY_FILE", "LLM_PROXY_SECRET", "LLM_PROXY_URL")
    others = ("LLM_PROXY_SIDECAR_MAX_MIB", "LLM_PROXY_LOAD_BALANCE", "LLM_PROXY_STATE", "PATH")
    assert unknown_settings(dict.fromkeys((*known, *others), "1")) == []
    assert unknown_settings({"LLM_PROXY__ZZZZ": "1"}) == ["LLM_PROXY__ZZZZ is no setting"]


def test_documents_name_settings_in_full() -> None:
    """So that a name can be copied."""
    root = Path(__file__).parents[2]
    text = (root / "docs" / "configuration.md").read_text("utf-8")
    full = set(re.findall(r"`(LLM_PROXY__\w+)`", text))
    plain = set(re.findall(r"`([A-Z][A-Z_]+)`", text))
    short = {name.removeprefix("LLM_PROXY__") for name in full} - plain
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    found = {
        (page.name, name)
        for page in pages
        for name in re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", page.read_text())
    }
    assert {(page, name) for page, name in found if name in short} == set()
