"""What aiohttp does with a provider's connection that breaks HTTP's rules.

Invariants: who reads a body that cannot be parsed gets an exception, as of one that breaks off, and before it
all bytes that came; a connection on which something came that no request asked for serves none, or each would
get the answer to another.
"""

from importlib import import_module

from llm_proxy.sidecar.litellm_internals import Untyped
from llm_proxy.sidecar.patches.patch import replace


def install() -> None:
    """Patch aiohttp's bodies and its protocol of a client's connection; before the first call."""
    _read_before_failure(import_module("aiohttp").StreamReader)
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


def _read_before_failure(body: Untyped) -> None:
    """Have what is unread of a body read before the exception is raised: aiohttp raises it at once."""
    failure = body._exception  # noqa: SLF001 -- aiohttp's reads look at it first

    class BrokenBody(body):  # type: ignore[misc]  # aiohttp's class, which this process imports
        __slots__ = ()
        _exception = property(lambda self: None if self._buffer else failure.__get__(self), failure.__set__)

    def fail_after_unread(self: Untyped, exc: BaseException, *cause: BaseException) -> None:
        if self._buffer:
            self.__class__ = BrokenBody
        fail(self, exc, *cause)

    fail = replace(body, "set_exception", fail_after_unread)
