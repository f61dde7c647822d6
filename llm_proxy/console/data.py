"""What the console reads: the stores of `ledger` and `identity`, on connections of the console's own.

Invariants: a slow page takes no connection of the gateway's; there is no SQL here. A store that is away makes
an error page (503), never a crash.
"""

from dataclasses import dataclass
from datetime import timedelta

from llm_proxy.identity import AdminKeyRepository
from llm_proxy.identity.console_sessions import ConsoleSessions
from llm_proxy.identity.postgres_store import PostgresKeyStore
from llm_proxy.ledger.usage_store import PostgresUsage
from llm_proxy.schema.connections import Pool, console_pool
from llm_proxy.settings import Settings


@dataclass(frozen=True, slots=True)
class RowScope:
    """The rows that a viewer may see; None: all of this kind.

    Attributes:
        tenant: The only tenant.
        key_id: The only key.
    """

    tenant: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConsoleData:
    """The stores.

    Attributes:
        pool: For further stores of `ledger` and `identity`.
        usage: Usage and requests.
        sessions: Of the console.
        admin_keys: To check a session's admin key.
        keys: To check a session's virtual key.
    """

    pool: Pool
    usage: PostgresUsage
    sessions: ConsoleSessions
    admin_keys: AdminKeyRepository
    keys: PostgresKeyStore


def open_data(settings: Settings) -> ConsoleData:
    """Returns the stores, not connected yet; the settings name a database."""
    assert settings.database_url is not None  # noqa: S101 -- `insecure_console_settings`
    url = settings.database_url.get_secret_value()
    pool = console_pool(url, settings.tls_for(url), settings.database_pooler)
    sessions = ConsoleSessions(
        pool,
        lifetime=timedelta(hours=settings.console_session_hours),
        idle=timedelta(minutes=settings.console_idle_minutes),
    )
    return ConsoleData(pool, PostgresUsage(pool), sessions, AdminKeyRepository(pool), PostgresKeyStore(pool))
