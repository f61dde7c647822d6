"""Addresses of stores that are set in several variables, as LiteLLM and libpq have them.

Pure. Invariants: an address in one variable has precedence. User and password are percent-encoded. An error
names variables and holds no value.
Sources: LiteLLM's `proxy/db/db_url_settings.py` and `_redis.py`;
https://www.postgresql.org/docs/18/libpq-envars.html.
"""

import json
from collections.abc import Mapping
from typing import cast
from urllib.parse import quote

from llm_proxy.service_urls import InvalidURL

_TRUE = frozenset({"true", "1", "yes"})
_DATABASE_TOKENS = ("IAM_TOKEN_DB_AUTH", "AZURE_POSTGRESQL_AUTH")
_REDIS_TOKENS = (
    "REDIS_AWS_IAM_AUTH",
    "REDIS_GCP_SERVICE_ACCOUNT",
    "REDIS_AZURE_REDIS_AD_TOKEN",
    "REDIS_AZURE_AD_TOKEN",
)
_REDIS_OTHERS = (
    "REDIS_SENTINEL_NODES",
    "REDIS_SENTINEL_PASSWORD",
    "REDIS_SERVICE_NAME",
    "REDIS_CLUSTER_NODES",
)
_REDIS_TLS = {
    "REDIS_SSL_CA_CERTS": "ssl_ca_certs",
    "REDIS_SSL_CERT_REQS": "ssl_cert_reqs",
    "REDIS_SSL_CERTFILE": "ssl_certfile",
    "REDIS_SSL_KEYFILE": "ssl_keyfile",
    "REDIS_SSL_CHECK_HOSTNAME": "ssl_check_hostname",
}
_LIBPQ_PARAMETERS = {
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCERT": "sslcert",
    "PGSSLKEY": "sslkey",
    "PGPASSFILE": "passfile",
    "PGOPTIONS": "options",
    "PGAPPNAME": "application_name",
    "PGCHANNELBINDING": "channel_binding",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
SPLIT_VARIABLES = frozenset(
    [
        *_DATABASE_TOKENS,
        *_REDIS_TOKENS,
        *_REDIS_OTHERS,
        *_REDIS_TLS,
        *_LIBPQ_PARAMETERS,
        *("DATABASE_HOST", "DATABASE_PORT", "DATABASE_USER", "DATABASE_USERNAME", "DATABASE_PASSWORD"),
        *("DATABASE_NAME", "DATABASE_SCHEMA", "DATABASE_SSLMODE", "DATABASE_SSLROOTCERT"),
        *("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"),
        *("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB", "REDIS_SSL"),
    ]
)
"""All variables that are read here."""


def database_url_of(variables: Mapping[str, str]) -> str | None:
    """Returns the address that `DATABASE_HOST` and its kin, else `PGHOST` and its kin, stand for.

    libpq's are used only if host, user and database are all set. Raises `InvalidURL`.
    """
    host = variables.get("DATABASE_HOST")
    if host:
        return _litellm_database(host, variables)
    host, user, name = (variables.get(one) for one in ("PGHOST", "PGUSER", "PGDATABASE"))
    if not (host and user and name):
        return None
    query = _query(variables, _LIBPQ_PARAMETERS)
    return _address(host, variables.get("PGPORT"), (user, variables.get("PGPASSWORD")), name, query)


def _litellm_database(host: str, variables: Mapping[str, str]) -> str:
    for token in _DATABASE_TOKENS:
        if variables.get(token, "").lower() in _TRUE:
            raise InvalidURL(f"{token} is not supported: the database needs a password")
    user = variables.get("DATABASE_USER") or variables.get("DATABASE_USERNAME")
    name = variables.get("DATABASE_NAME")
    if not user or not name:
        missing = "DATABASE_NAME" if user else "DATABASE_USER"
        raise InvalidURL(f"DATABASE_HOST is set, and {missing} is not")
    query = _query(
        variables,
        {
            "DATABASE_SSLMODE": "sslmode",
            "DATABASE_SSLROOTCERT": "sslrootcert",
            "DATABASE_SCHEMA": "schema",
        },
    )
    if "sslrootcert" in query and "sslmode" not in query:
        query["sslmode"] = "verify-full"
    credentials = (user, variables.get("DATABASE_PASSWORD"))
    return _address(host, variables.get("DATABASE_PORT"), credentials, name, query)


def redis_url_of(variables: Mapping[str, str]) -> str | None:
    """Returns the address that `REDIS_HOST` and its kin stand for; raises `InvalidURL`."""
    for refused in _REDIS_TOKENS:
        if variables.get(refused, "").lower() not in {"", "false", "0", "no"}:
            raise InvalidURL(f"{refused}: tokens are not supported: Redis needs a password")
    found = _redis_location(variables)
    if found is None:
        return None
    kind, where = found
    tls = variables.get("REDIS_SSL", "").lower() in _TRUE
    user, password = (_encoded(variables.get(one)) for one in ("REDIS_USERNAME", "REDIS_PASSWORD"))
    who = f"{user}:{password}@" if user or password else ""
    query = _query(variables, _REDIS_TLS) if tls else {}
    if kind == "+sentinel":
        query |= _query(variables, {"REDIS_SENTINEL_PASSWORD": "sentinel_password", "REDIS_DB": "db"})
    return f"{'rediss' if tls else 'redis'}{kind}://{who}{where}{_joined(query)}"


def _redis_location(variables: Mapping[str, str]) -> tuple[str, str] | None:
    """The scheme's second part, and the hosts with what follows them; as LiteLLM, a cluster first."""
    if variables.get("REDIS_CLUSTER_NODES"):
        return "+cluster", _nodes("REDIS_CLUSTER_NODES", variables)
    if variables.get("REDIS_SENTINEL_NODES"):
        service = variables.get("REDIS_SERVICE_NAME")
        if not service:
            raise InvalidURL("REDIS_SENTINEL_NODES is set, and REDIS_SERVICE_NAME is not")
        return "+sentinel", f"{_nodes('REDIS_SENTINEL_NODES', variables)}/{_encoded(service)}"
    host = variables.get("REDIS_HOST")
    if not host:
        return None
    if "://" in host:
        raise InvalidURL("REDIS_HOST is an address: set REDIS_URL")
    port, number = variables.get("REDIS_PORT") or "6379", variables.get("REDIS_DB") or "0"
    return "", f"{_bracketed(host)}:{port}/{number}"


def _nodes(name: str, variables: Mapping[str, str]) -> str:
    """The hosts of a JSON list of `["host", 6379]` or `{"host": "host", "port": 6379}`."""
    form = f'{name} is no JSON list such as [["host", 6379]] or [{{"host": "host", "port": 6379}}]'
    try:
        nodes: object = json.loads(variables[name])
    except ValueError:
        raise InvalidURL(form) from None
    found: list[str] = []
    for node in cast("list[object]", nodes) if isinstance(nodes, list) else [nodes]:
        match node:
            case [str() as host, (int() | str()) as port] | {
                "host": str() as host,
                "port": (int() | str()) as port,
            }:
                found.append(f"{_bracketed(host)}:{port}")
            case _:
                raise InvalidURL(form)
    if not found:
        raise InvalidURL(form)
    return ",".join(found)


def _address(
    host: str, port: str | None, credentials: tuple[str, str | None], name: str, query: dict[str, str]
) -> str:
    user, password = credentials
    who = f"{_encoded(user)}:{_encoded(password)}" if password else _encoded(user)
    if host.startswith("/"):
        query["host"] = _encoded(host)
    if host.startswith("/") and port:
        query["port"] = _encoded(port)
    where = "" if host.startswith("/") else f"{_bracketed(host)}{f':{port}' if port else ''}"
    return f"postgresql://{who}@{where}/{_encoded(name)}{_joined(query)}"


def _query(variables: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {to: _encoded(variables[name]) for name, to in names.items() if variables.get(name)}


def _joined(query: Mapping[str, str]) -> str:
    return "?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def _encoded(text: str | None) -> str:
    return quote(text or "", safe="")
