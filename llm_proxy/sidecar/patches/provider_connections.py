"""What aiohttp does with a provider's connection that breaks HTTP's rules.

Invariants: who reads a body that cannot be parsed gets an exception, as of one that breaks off; a connection
on which something came that no request asked for serves none, or each would get the answer to another.
"""

from importlib import import_module

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import replace


def install() -> None:
    """Patch aiohttp's protocol of a client's connection; before the first call."""
    aiohttp, connection = import_module("aiohttp"), import_module("aiohttp.client_proto").ResponseHandler
    unparsable = import_module("aiohttp.http").HttpProcessingError

    def fail_with_body(self: Untyped, exc: BaseException, *cause: BaseException) -> None:
        body = self._payload
        if isinstance(exc, unparsable) and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(f"Response payload is not completed: {exc!r}"))
        fail(self, exc, *cause)

    def serves_requests(self: Untyped) -> bool:
        return bool(is_connected(self)) and not self.should_close

    fail = replace(connection, "set_exception", fail_with_body)
    is_connected = replace(connection, "is_connected", serves_requests)
