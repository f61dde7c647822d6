"""An export of revocations is read only as it was made, by whoever has the key."""

import json
from pathlib import Path

import pytest

from llm_proxy.identity.revocation_export import (
    ExportRejected,
    load_export,
    mac_keys,
    open_export,
    seal_export,
    write_whole,
)
from llm_proxy.sealing import SealingKey

TEXT = json.dumps({"format": 1, "made_at": "2026-11-20T02:00:00+00:00", "seen": ["l", 0, 5, 7], "keys": []})
NEW, OLD = SealingKey("new", "n" * 32), SealingKey("old", "o" * 32)


def test_what_was_sealed_with_an_older_key_is_read_while_the_settings_have_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "e", seal_export(TEXT, (OLD,)))
    assert load_export(tmp_path / "e", (NEW, OLD)).seen == ("l", 0, 5, 7)
    assert (tmp_path / "e").stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["e"]
    with pytest.raises(ExportRejected, match="the key 'old'"):
        load_export(tmp_path / "e", (NEW,))


WHOLE = seal_export(TEXT, (NEW,))


@pytest.mark.parametrize(
    "changed",
    [
        WHOLE.replace(b'"keys": []', b'"keys": [1]'),
        WHOLE[:-20],
        WHOLE.replace(b"mac", b"nac"),
        WHOLE.replace(b'"mac": "', b'"mac": "0'),
        WHOLE.partition(b"\n")[2],
        b"",
        b"[]\n[]\n",
        b"\xff\xfe\n",
    ],
)
def test_one_that_was_changed_or_is_none_is_not_read(changed: bytes) -> None:
    with pytest.raises(ExportRejected):
        open_export(changed, (NEW,))


def test_sealing_keys_come_before_the_admin_keys_of_the_settings() -> None:
    found = mac_keys((NEW,), ("first", "second"))
    assert [one.secret for one in found] == [NEW.secret, "first", "second"]
    assert len({one.key_id for one in found}) == 3
    assert mac_keys((), ()) == ()
