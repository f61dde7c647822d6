"""Names of admin keys: none may be taken for a part of the gateway in the audit log."""

import re
from pathlib import Path

import pytest

import llm_proxy
from llm_proxy.errors import BadRequest
from llm_proxy.identity.admin_documents import parse_admin_key
from llm_proxy.identity.admin_keys import RESERVED_NAMES
from llm_proxy.identity.audit import SYSTEM_ACTORS

SOURCES = Path(llm_proxy.__file__).parent.rglob("*.py")


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_no_admin_key_has_a_reserved_name(name: str) -> None:
    """It would stand in the log as another."""
    with pytest.raises(BadRequest, match="reserved"):
        parse_admin_key({"name": name, "role": "viewer"})


def test_every_part_that_acts_by_itself_is_reserved() -> None:
    """Each that the code makes an actor by a name of its own."""
    named = {name for file in SOURCES for name in re.findall(r'\bActor\("([^"]+)"', file.read_text())}
    assert named == SYSTEM_ACTORS
