"""Settings that hold secrets, `new,old` in one of them, and uses of the old one."""

from pydantic import SecretStr

from llm_proxy.rotation import REPORT_EVERY_S, OldSecretUses, secret_settings, split_secrets
from llm_proxy.setting_sources import is_secret, names_of
from llm_proxy.settings import Settings

NEW, OLD = "n" * 20, "o" * 20


def test_every_secret_setting_is_in_the_table_and_no_other() -> None:
    """Each field that is kept out of sight, by its own name."""
    secret = {
        names_of(Settings, name)[0] for name, field in Settings.model_fields.items() if is_secret(field)
    }
    table = {one.variable for one in secret_settings() if one.variable.startswith("LLM_PROXY__")}
    assert table == secret


def test_several_secrets_are_read_newest_first() -> None:
    """Blanks and doubles are no secrets."""
    assert split_secrets(f" {NEW} ,{OLD},, {NEW}") == (NEW, OLD)
    assert split_secrets(" , ") == ()


def test_each_setting_that_takes_several_gives_all_of_them() -> None:
    """The first is the one that is sent."""
    both = SecretStr(f"{NEW},{OLD}")
    settings = Settings.model_validate(
        {"internal_api_key": both, "admin_key": both, "admin_read_key": both, "litellm_api_key": both}
    )
    found = (settings.internal_keys, settings.admin_keys, settings.admin_read_keys, settings.sidecar_keys)
    assert set(found) == {(NEW, OLD)}
    assert settings.old_secrets[OLD] == "LLM_PROXY__ADMIN_READ_KEY"


def test_uses_are_counted_and_reported_once_an_hour() -> None:
    """The first at once; a report has what came since the last one."""
    now_s, reports = [0.0], list[tuple[str, int]]()
    uses = OldSecretUses(lambda setting, count: reports.append((setting, count)), lambda: now_s[0])
    uses.expect(["A", "B"])
    for _ in range(3):
        uses.note("A")
    now_s[0] = REPORT_EVERY_S
    uses.note("A")
    assert reports == [("A", 1), ("A", 3)]
    assert uses.counts == {"A": 4, "B": 0}
