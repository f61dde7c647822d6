"""Credentials that were refused, put on record: from where, at which path, by which public part.

Invariants: a credential's text goes no further than its public part; a flood costs a counter, not a row each
(see `identity.RefusedCredentials`); without a database nothing is kept.
"""

from llm_proxy.edge.client_ip import ClientIp
from llm_proxy.edge.request import Scope
from llm_proxy.errors import Refused, Unauthorized
from llm_proxy.identity import RefusedCredentials
from llm_proxy.identity.credentials import HEADERS

_LONGEST = 512


class Suspects:
    """Notes refused credentials."""

    def __init__(self, record: RefusedCredentials | None, client_ip: ClientIp) -> None:
        self._record = record
        self._client_ip = client_ip

    def note(self, scope: Scope, refused: Refused) -> None:
        """A request was refused; only a refused credential is of interest."""
        if self._record is None or not isinstance(refused, Unauthorized):
            return
        tried = next((value for name, value in scope["headers"] if name in HEADERS), b"")
        self._record.note(
            client_ip=self._client_ip(scope),
            path=scope["path"],
            credential=tried[:_LONGEST].removeprefix(b"Bearer ").strip(),
        )
