"""Names of admin keys: none equals a part of the gateway in the audit log."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import llm_proxy
from llm_proxy.errors import BadRequest
from llm_proxy.identity.admin_documents import parse_admin_key
from llm_proxy.identity.admin_keys import RESERVED_NAMES
from llm_proxy.identity.audit import SYSTEM_ACTORS

SOURCES = Path(llm_proxy.__file__).parent.rglob("*.py")


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_an_admin_key_has_no_reserved_name(name: str) -> None:
    """The audit log would show another author."""
    with pytest.raises(BadRequest, match="reserved"):
        parse_admin_key({"name": name, "role": "viewer"}, datetime.now(UTC))


def test_every_system_actor_is_reserved() -> None:
    """Each name that the code gives an actor."""
    named = {name for file in SOURCES for name in re.findall(r'\bActor\("([^"]+)"', file.read_text())}
    assert named == SYSTEM_ACTORS
