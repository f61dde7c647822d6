"""Settings with which nothing starts, each named by its variable and never shown.

Pure. In production a known or short secret stops the start, and so does a public address without consent.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import MASTER_KEY, Settings, several

KNOWN_SECRETS = frozenset(
    {"change-me-internal-key", "dev-secret-token", "sk-1234", "sk-master", "secret", "password"}
)
MIN_SECRET_CHARS = 16
_LOCAL = ("127.", "::1", "localhost")
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "::1", "localhost"})


def insecure_settings(settings: Settings) -> list[str]:
    """A line for each setting that stops a start in production, with its variable; empty in development."""
    if settings.environment != "production":
        return []
    faults = list(insecure_secrets(settings))
    if settings.keys_file is not None and settings.database_url is None and settings.llm_mode != "mock":
        faults.append(f"{PREFIX}KEYS_FILE is set and DATABASE_URL is not: nothing in that file would hold")
    if not settings.internal_keys and settings.database_url is None:
        faults.append(
            f"neither {PREFIX}INTERNAL_API_KEY nor DATABASE_URL is set: no call could be authenticated"
        )
    if not settings.public_bind_ok and not settings.host.startswith(_LOCAL):
        faults.append(f"{PREFIX}HOST is a public address; set {PREFIX}PUBLIC_BIND_OK=true to consent")
    return faults


def insecure_secrets(settings: Settings) -> Iterator[str]:
    """A line for each secret that is known or short, with its variable."""
    secrets = [
        (name, text)
        for name, given in (
            (f"{PREFIX}INTERNAL_API_KEY", settings.internal_api_key),
            (MASTER_KEY, settings.litellm_master_key),
            (f"{PREFIX}ADMIN_KEY", settings.admin_key),
            (f"{PREFIX}ADMIN_READ_KEY", settings.admin_read_key),
            (f"{PREFIX}NOTIFY_SECRET", settings.notify_secret),
            (
                f"{PREFIX}LITELLM_API_KEY",
                settings.litellm_api_key if settings.llm_mode == "litellm" else None,
            ),
        )
        for text in several(given)
    ]
    for name, text in secrets:
        if text in KNOWN_SECRETS:
            yield f"{name} is a publicly known default"
        elif len(text) < MIN_SECRET_CHARS:
            yield f"{name} is shorter than {MIN_SECRET_CHARS} characters"


def insecure_console_settings(settings: Settings) -> list[str]:
    """A line for each setting that stops a start of the console, with its variable."""
    faults: list[str] = []
    if settings.database_url is None:
        faults.append("DATABASE_URL is not set: the console keeps its sessions there")
    url, issuer = settings.console_url, settings.console_oidc_issuer
    if issuer is not None and not (settings.console_oidc_client_id and settings.console_oidc_roles):
        faults.append(f"{PREFIX}CONSOLE_OIDC_ISSUER needs {PREFIX}CONSOLE_OIDC_CLIENT_ID and …_ROLES")
    if issuer is not None and issuer.startswith("http:") and urlsplit(issuer).hostname not in _LOOPBACK_NAMES:
        faults.append(f"{PREFIX}CONSOLE_OIDC_ISSUER is not https: anyone on the way could sign in as anyone")
    if settings.environment != "production":
        return faults
    if url is None and not settings.console_host.startswith(_LOCAL):
        faults.append(
            f"{PREFIX}CONSOLE_HOST is a public address; set {PREFIX}CONSOLE_URL to the address browsers use"
        )
    if url is not None and url.startswith("http:") and urlsplit(url).hostname not in _LOOPBACK_NAMES:
        faults.append(f"{PREFIX}CONSOLE_URL is not https: passwords and cookies would be readable on the way")
    return faults
