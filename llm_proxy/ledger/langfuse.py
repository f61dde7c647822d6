"""A person's traces in Langfuse, found and deleted through its public API.

Invariants: within one tenant, by the tag the gateway gives each trace; nothing is called deleted that
Langfuse still lists. Source: https://api.reference.langfuse.com (GET and DELETE /api/public/traces).
"""

import asyncio
import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

_TIMEOUT_S = 20.0
_PAGE = 100
_PATH = "/api/public/traces"


class LangfuseUnavailable(Exception):  # noqa: N818 -- errors are named for the state they report
    """It did not answer, or refused; the text says why, without its address or keys."""


@dataclass(frozen=True, slots=True)
class Langfuse:
    """Langfuse's API for one project."""

    url: str
    public_key: str
    secret_key: str

    async def erase(self, tenant: str | None, user: str) -> tuple[int, int]:
        """Delete the traces of a tenant's user; returns how many were found, and how many are still listed.

        Raises:
            LangfuseUnavailable: It cannot say, or does not delete.
        """
        found = await asyncio.to_thread(self._traces, tenant, user)
        for start in range(0, len(found), _PAGE):
            part = found[start : start + _PAGE]
            await asyncio.to_thread(self._ask, "DELETE", _PATH, {"traceIds": part})
        left = await asyncio.to_thread(self._traces, tenant, user) if found else []
        return len(found), len(left)

    def _traces(self, tenant: str | None, user: str) -> list[str]:
        found: list[str] = []
        page, pages = 1, 1
        while page <= pages:
            query: dict[str, Any] = {"userId": user, "page": page, "limit": _PAGE}
            if tenant is not None:
                query["tags"] = f"tenant:{tenant}"
            document = self._ask("GET", f"{_PATH}?{urlencode(query)}")
            pages = int(document["meta"]["totalPages"])
            for trace in document["data"]:
                given: list[Any] = trace.get("tags") or []
                tags = [tag for tag in given if str(tag).startswith("tenant:")]
                if tags == ([f"tenant:{tenant}"] if tenant is not None else []):
                    found.append(str(trace["id"]))
            page += 1
        return found

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:  # noqa: ANN401 -- JSON
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        token = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        headers = {"authorization": f"Basic {token}", "content-type": "application/json"}
        try:
            text = json.dumps(body) if body is not None else None
            connection.request(method, parts.path.rstrip("/") + path, text, headers)
            answer = connection.getresponse()
            raw = answer.read()
            if answer.status >= 300:
                raise LangfuseUnavailable(f"it answered {answer.status}")
            document: dict[str, Any] = json.loads(raw) if method == "GET" else {}
        except (OSError, http.client.HTTPException, ValueError) as fault:
            raise LangfuseUnavailable(f"it did not answer: {type(fault).__name__}") from fault
        else:
            return document
        finally:
            connection.close()
