"""Classifies Postgres's errors, sanitizes text for it, and writes batches that may hold unacceptable rows.

Invariants: the only module that interprets asyncpg's errors. A reason names Postgres's condition, never a
value, an address or a password; of a refused connection it ends with the server's message. `write_rows`
removes a row from the given list only when Postgres has stored it, or has rejected it alone.
Source: https://www.postgresql.org/docs/18/errcodes-appendix.html.
"""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import asyncpg

Row = TypeVar("Row")
FailureKind = Literal["away", "refused", "migrating", "outdated"]

_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_ROW_ERRORS = ("21", "22", "23", "44", "54", "P0", "XX000", "42P17")
"""SQLSTATE classes and codes caused by a row's values: the same statement accepts other rows."""
_UNREACHABLE = ("08", "53300", "57P")
"""Connection lost, no connection left, starting or stopping: the statement was not judged."""

_MAX_MESSAGE_CHARS = 300
STATEMENT_TIMEOUT = "it took too long"
"""The reason of a statement that exceeded the server's time limit."""
_REASONS = {
    "08P01": "what answers at its address refuses the connection",
    "28": "it refuses this user or password",
    "3D": "it has no database of this name",
    "3F": "it has no such schema",
    "42501": "its role lacks a permission",
    "42P01": "a table is missing; run `llm-proxy migrate`",
    "42703": "a column is missing; run `llm-proxy migrate`",
    "42883": "a function is missing; run `llm-proxy migrate`",
    "42704": "it does not know a parameter of the address",
    "25006": "it is read-only",
    "40": "two transactions conflicted; it is tried again",
    "55P03": "it did not get a lock in time",
    "53100": "its disk is full",
    "53200": "it is out of memory",
    "53300": "it has too many connections",
    "57P03": "it is starting or stopping",
    "57014": STATEMENT_TIMEOUT,
}
_REFUSED_CONNECTION = ("08P01", "28", "3D", "3F", "42704", "22023", "53300")
"""SQLSTATE classes and codes whose message names the user, database or parameter, and no value.

08P01 is PgBouncer's for a user or database it does not know and for a parameter it does not pass on.
"""
_NO_ANSWER: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "it did not answer in time"),
    (socket.gaierror, "its host is not found"),
    (ConnectionRefusedError, "nothing listens at its address"),
    (ConnectionResetError, "it closed the connection without an answer"),
    (FileNotFoundError, "its socket, or a file that the address names, does not exist"),
    (asyncpg.ClientConfigurationError, "its address is not understood"),
    (
        asyncpg.TargetServerAttributeNotMatched,
        "no server is what target_session_attrs of the address demands",
    ),
)


class DatabaseUnavailable(Exception):  # noqa: N818 -- errors are named for the state they report
    """Postgres did nothing, for a reason that is not in the values; the same may succeed later.

    Attributes:
        kind: `away`: Postgres does not answer. `refused`: it rejects the statement. `migrating`: migrations
            are being applied. `outdated`: it belongs to newer releases than this one.
        reason: Holds no value and no address.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind
        self.reason = reason


class AddressRejected(asyncpg.InterfaceError):
    """Postgres rejects a value in the address: the rows that wait for the connection may be right."""


class RowsRejected(Exception):  # noqa: N818 -- the same
    """Postgres rejects the values of at least one row, now and later.

    Attributes:
        sqlstate: Postgres's code.
        reason: The error's name, and the column, constraint or table at fault.
    """

    def __init__(self, sqlstate: str, reason: str) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate
        self.reason = reason


DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection cut in the middle of a message
    OSError,
    TimeoutError,
)
"""The errors that `classify_error` takes."""


def classify_error(error: BaseException) -> DatabaseUnavailable | RowsRejected:
    """Returns the exception that stands for an error of asyncpg or of the socket."""
    if isinstance(error, AddressRejected):
        return DatabaseUnavailable("refused", f"it rejects a value in its address ({error.args[0]})")
    if not isinstance(error, asyncpg.PostgresError):
        return DatabaseUnavailable("away", _unreachable_reason(error))
    sqlstate = str(getattr(error, "sqlstate", None) or "XX000")
    if sqlstate.startswith(_ROW_ERRORS):
        return RowsRejected(sqlstate, _describe(error, sqlstate))
    kind: FailureKind = "away" if sqlstate.startswith(_UNREACHABLE) else "refused"
    known = _REASONS.get(sqlstate) or _REASONS.get(sqlstate[:2])
    reason = known or _describe(error, sqlstate)
    if sqlstate.startswith(_REFUSED_CONNECTION) and isinstance(error.args[0], str):
        reason = f"{reason} ({_message(error)})"
    return DatabaseUnavailable(kind, reason)


@asynccontextmanager
async def connecting() -> AsyncGenerator[None]:
    """Raises `AddressRejected` for what would else be taken for a fault of the rows."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if str(error.sqlstate).startswith(_ROW_ERRORS):
            raise AddressRejected(_message(error)) from error
        raise


def is_missing_partition(error: asyncpg.PostgresError) -> bool:
    """Returns whether a row's partition is missing: unlike a violated CHECK, it names no constraint."""
    return isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None


@asynccontextmanager
async def db_deadline(seconds: float | None) -> AsyncGenerator[None]:
    """Limits the block to this time, if any; raises `DatabaseUnavailable` or `RowsRejected`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except DRIVER_ERRORS as error:
        raise classify_error(error) from error


async def write_rows(
    rows: list[Row], write: Callable[[Sequence[Row]], Awaitable[None]]
) -> list[tuple[Row, str]]:
    """Writes all rows, halving batches that are rejected; returns the rows Postgres rejects, with the reason.

    Args:
        rows: Written and rejected rows are removed; rows left when this raises are to be written later.
        write: Writes some rows; raises `DatabaseUnavailable` or `RowsRejected`.
    """
    waiting: list[list[Row]] = [list(rows)] if rows else []
    rejected: list[tuple[Row, str]] = []
    try:
        while waiting:
            batch = waiting[-1]
            try:
                await write(batch)
            except RowsRejected as fault:
                half = len(batch) // 2
                if half:
                    waiting[-1:] = [batch[half:], batch[:half]]
                    continue
                rejected.append((batch[0], fault.reason))
            waiting.pop()
    finally:
        lost = [row for row, _ in rejected] if waiting else []  # returned only when every row is written
        rows[:] = [*lost, *(row for batch in reversed(waiting) for row in batch)]
    return rejected


def sanitize_text(text: str) -> str:
    """Returns the text without NUL and lone surrogates, which Postgres accepts in no text."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def jsonb_text(document: Any) -> str:  # noqa: ANN401 -- any JSON
    """Returns a document as text for a jsonb column, without escaped NUL and lone surrogates."""
    text = sanitize_text(_JSON.encode(document))
    return _ESCAPED_NUL.sub(r"\1", text) if "\\u0000" in text else text


def _unreachable_reason(error: BaseException) -> str:
    for kind, reason in _NO_ANSWER:
        if isinstance(error, kind):
            return reason
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'the connection was closed'}"
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return "it refuses TLS, and the address asks for it"
    return f"the connection failed: {type(error).__name__}"


def _message(error: BaseException) -> str:
    return " ".join(str(error.args[0]).split())[:_MAX_MESSAGE_CHARS]


def _describe(error: asyncpg.PostgresError, sqlstate: str) -> str:
    names = (getattr(error, name, None) for name in ("table_name", "column_name", "constraint_name"))
    at = ".".join(str(name) for name in names if name)
    return f"{type(error).__name__} ({sqlstate}){f' at {at}' if at else ''}"
