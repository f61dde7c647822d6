"""A new version of uvicorn must have what `BoundedHttpProtocol` overrides and calls."""

import inspect

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llm_proxy.edge.http_protocol import BoundedHttpProtocol
from llm_proxy.edge.request_cycle import BoundedRequestCycle, plain_lines

OVERRIDDEN = {
    HttpToolsProtocol: (
        "__init__", "connection_made", "connection_lost", "data_received", "on_message_begin", "on_url",
        "on_header", "on_headers_complete", "on_body", "on_message_complete", "on_response_complete",
        "shutdown", "_start_asgi_task",
    ),
    RequestResponseCycle: ("receive", "send", "send_500_response"),
    FlowControl: ("__init__", "resume_reading"),
}  # fmt: skip
CALLED = {
    HttpToolsProtocol: ("pause_writing", "resume_writing", "eof_received"),
    RequestResponseCycle: ("run_asgi",),
    FlowControl: ("drain", "pause_reading"),
}
OURS = {HttpToolsProtocol: BoundedHttpProtocol, RequestResponseCycle: BoundedRequestCycle}
CYCLE_ARGUMENTS = [
    "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event",
    "expect_100_continue", "keep_alive", "on_response",
]  # fmt: skip


@pytest.mark.parametrize("cls", OVERRIDDEN, ids=lambda cls: cls.__name__)
def test_uvicorn_has_what_is_overridden_and_called(cls: type) -> None:
    """By name, and with the parameters it had: the range in pyproject.toml ends where this was last seen."""
    for name in (*OVERRIDDEN[cls], *CALLED[cls]):
        assert name in vars(cls)
    for name in OVERRIDDEN[cls] if cls in OURS else ():
        theirs, ours = (inspect.signature(getattr(one, name)).parameters for one in (cls, OURS[cls]))
        assert list(ours) == list(theirs)


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_nothing_of_uvicorns_is_overridden_by_accident(cls: type) -> None:
    """A name uvicorn takes for a member of its own one day would be ours without a word."""
    defined = {name for name in vars(OURS[cls]) if not name.startswith("__") or name == "__init__"}
    taken = {name for name in defined if hasattr(cls, name)}
    assert taken == set(OVERRIDDEN[cls])


def test_a_request_cycle_is_made_as_uvicorn_makes_it() -> None:
    """Its arguments, by name."""
    assert list(inspect.signature(RequestResponseCycle).parameters) == CYCLE_ARGUMENTS


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((b"x-a", b"x-b"), b"x-a: 1\r\nx-b: 2\r\n"),
        ((b"x%b", b"x-b"), b"x%b: 1\r\nx-b: 2\r\n"),
        ((b"x-a", b"content-length"), None),
        ((b"X-A", b"x-b"), None),
        ((b"x-a\r\nx-b", b"x-c"), None),
        ((b"connection", b"x-b"), None),
        ((b"transfer-encoding", b"x-b"), None),
    ],
)
def test_a_head_is_written_at_once_only_if_it_is_plain(
    names: tuple[bytes, bytes], expected: bytes | None
) -> None:
    """Any other goes uvicorn's way, which rejects or completes it."""
    lines = plain_lines(names)
    assert lines % (b"1", b"2") == expected if expected is not None else lines == b""
