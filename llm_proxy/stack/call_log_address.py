"""The address at which sidecars write `llm_calls`, made from the owner's: `python -m … FILE`, for compose.

Invariants: the file holds the role that may only insert there, never the owner; nothing of an address is
printed. Reads DATABASE_URL and SIDECAR_DB_PASSWORD. No file remains when the password is missing or
LLM_CALLS is `given`: then the operator has set the address, or turned the log off.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from llm_proxy.postgres_urls import SIDECAR_ROLE, parse_postgres_url
from llm_proxy.service_urls import InvalidURL, parse_setting

_OF_THE_OWNER = re.compile(r"(user|password|passfile|sslcert|sslkey|sslpassword)=")
_POOLER = re.compile(r"\.pooler\.supabase\.com(?::|/|$)")


def call_log_address(database_url: str, password: str) -> str:
    """Returns the address of the same database for the sidecars' role; raises `InvalidURL`."""
    scheme, _, rest = parse_setting("DATABASE_URL", database_url, parse_postgres_url).partition("://")
    address, _, query = rest.partition("#")[0].partition("?")
    owner, _, location = address.rpartition("@")
    role = SIDECAR_ROLE
    if _POOLER.search(location):  # Supabase's pooler finds the project by the end of the user's name
        role += "".join(owner.partition(":")[0].partition(".")[1:])
    kept = "&".join(pair for pair in query.split("&") if pair and not _OF_THE_OWNER.match(pair))
    return f"{scheme}://{role}:{quote(password, safe='')}@{location}{f'?{kept}' if kept else ''}"


def write_address(file: Path, environment: Mapping[str, str]) -> str | None:
    """Writes or removes the file; returns what is missing or wrong, None when nothing is."""
    url, password = environment.get("DATABASE_URL", ""), environment.get("SIDECAR_DB_PASSWORD", "")
    file.unlink(missing_ok=True)
    if missing := _missing_address(environment):
        return missing
    if not url:
        return "DATABASE_URL is not set"
    if not password or environment.get("LLM_CALLS") == "given":
        return None
    try:
        address = call_log_address(url, password)
    except InvalidURL as fault:
        return str(fault)
    file.parent.chmod(0o755)  # for another user; only containers with this volume see it
    file.write_text(address, encoding="utf-8")
    file.chmod(0o444)
    return None


def _missing_address(environment: Mapping[str, str]) -> str | None:
    """Names what the profile managed-db needs and does not have."""
    if "managed-db" not in environment.get("PROFILES", "").split(","):
        return None
    needed = {"DATABASE_URL": "OWN_DATABASE", "REDIS_URL": "OWN_REDIS"}
    missing = [name for name, given in needed.items() if not environment.get(given)]
    return f"the profile managed-db needs {' and '.join(missing)} in .env" if missing else None


if __name__ == "__main__":
    sys.exit(write_address(Path(sys.argv[1]), os.environ))
