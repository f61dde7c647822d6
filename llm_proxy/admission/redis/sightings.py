"""What the limits store knows of the databases it has seen; it stays when a database is restored.

Invariants: a sighting is read before it is replaced, by the process that has judged the database by
it. Raises `LimiterUnavailable`.
"""

from llm_proxy.admission.redis.cluster import ClusterClient
from llm_proxy.schema.database_marker import Sighting, parse_sighting

KEPT_MS = 400 * 86_400_000
_OF_LINEAGE, _OF_NAME = "lp:database:", "lp:database-name:"


class StoredSightings:
    """What the limits store knows of databases."""

    def __init__(self, store: ClusterClient) -> None:
        self._store = store

    async def of_lineage(self, lineage: str) -> Sighting | None:
        """Returns how far the database of this lineage was seen."""
        return await self._read(_OF_LINEAGE + lineage)

    async def of_name(self, name: str) -> Sighting | None:
        """Returns what was seen of the last database of this name."""
        return await self._read(_OF_NAME + name)

    async def write(self, name: str, seen: Sighting) -> None:
        """Notes what was seen of a database."""
        for key in (_OF_LINEAGE + seen.lineage, _OF_NAME + name):
            await self._store.execute(key, "SET", key, seen.as_text(), "PX", KEPT_MS)

    async def epoch(self, key: str) -> int:
        """Returns the epoch that is published under a key; 0 without one."""
        return int(await self._store.execute(key, "GET", key) or 0)

    async def _read(self, key: str) -> Sighting | None:
        found: bytes | None = await self._store.execute(key, "GET", key)
        return None if found is None else parse_sighting(found.decode("utf-8", "replace"))
