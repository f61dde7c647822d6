"""What `llm-proxy doctor` finds at servers that answer more than they should: a real one in their place."""

import json
import ssl
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from self_signed import self_signed
from threaded_server import serving

from llm_proxy.cli.doctor.findings import DoctorFinding, NotChecked, Outcome
from llm_proxy.cli.doctor.reach import (
    WRONG_KEY,
    check_certificates,
    check_gateway,
    check_sidecars,
    listeners,
)
from llm_proxy.cli.doctor.subject import Subject
from llm_proxy.settings import load
from llm_proxy.stack.operator_env import OperatorEnv

KEY = "sk-the-gateways-own-0123456789"
READY = {"/health/ready": '{"status": "ready", "parts": []}'}
SIDECAR = {"/health/readiness": "{}", "/v1/models": "{}", "/llmp/config": '{"litellm": "1.108.6"}'}


@contextmanager
def server(
    served: Mapping[str, str],
    *,
    keys: frozenset[str] | None = None,
    date: str | None = None,
    slow: frozenset[str] = frozenset(),
    closed: frozenset[str] = frozenset(),
    certificate: tuple[Path, Path] | None = None,
) -> Generator[str]:
    """A server that answers 200 at these paths, 404 elsewhere; with `keys` 401 without one of them."""
    gone = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        wbufsize = -1  # head and body go out at once: a client that only reads the head closes then

        def do_GET(self) -> None:
            if self.path in slow:
                gone.wait(20)
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            is_free = self.path.startswith("/health/") or keys is None or given in keys
            is_free &= self.path not in closed
            status = 401 if not is_free else 200 if self.path in served or "*" in served else 404
            body = served.get(self.path, "{}").encode()
            self.send_response_only(status)
            self.send_header("Date", date or self.date_time_string())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the parent's name
            """Prints nothing."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        running.socket = context.wrap_socket(running.socket, server_side=True)
    with serving(running) as url:
        try:
            yield url.replace("http:", "https:") if certificate else url
        finally:
            gone.set()


def subject_of(url: str, tmp_path: Path, **more: object) -> Subject:
    """An installation whose gateway and only sidecar are at this address."""
    settings = load(litellm_proxy_url=url, litellm_api_key=KEY, internal_api_key="k" * 32)
    made = Subject(settings, OperatorEnv({}), tmp_path / "none.yaml", url, folder=tmp_path)
    return replace(made, **more)  # type: ignore[arg-type]


def codes(found: Outcome) -> list[str]:
    """The codes of what is found."""
    return [one.code for one in found if isinstance(one, DoctorFinding)]


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ({}, []),
        ({"/admin/keys": "{}"}, ["admin-open", "admin-open"]),  # without a key, and with a wrong one
        ({"/metrics": "x"}, ["admin-open", "admin-open"]),
        ({"/openapi.json": "{}"}, ["admin-open"]),
        ({"/ui/": "<html>"}, ["sidecar-through-gateway"]),
        ({"/mcp": "x", "/llmp/catalog": "{}"}, ["sidecar-through-gateway"] * 2),
    ],
)
async def test_what_a_gateway_serves_without_a_key(
    served: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    """Each route that answers is named."""
    with server({**READY, **served}) as url:
        assert codes(await check_gateway(subject_of(url, tmp_path))) == expected


async def test_only_a_wrong_key_opens(tmp_path: Path) -> None:
    """As behind a proxy that replaces credentials."""
    with server({**READY, "/admin/keys": "{}"}, keys=frozenset({WRONG_KEY})) as url:
        (found, *_) = await check_gateway(subject_of(url, tmp_path))
    assert isinstance(found, DoctorFinding)
    assert found.what.endswith("/admin/keys answers 200 with a wrong key")


async def test_a_server_that_answers_everything_is_not_judged(tmp_path: Path) -> None:
    """As a page's own server does."""
    with server({"*": "", **READY}) as url:
        found = await check_gateway(subject_of(url, tmp_path))
    assert codes(found) == []
    assert [one.reason for one in found if isinstance(one, NotChecked) and one.is_unknown] == [
        "it answers 200 to every path"
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"status": "degraded", "parts": [{"part": "limits", "detail": "away"}]}', ["gateway-degraded"]),
        ("no JSON", ["gateway-away"]),
    ],
)
async def test_what_a_gateway_says_of_itself(body: str, expected: list[str], tmp_path: Path) -> None:
    """A degraded component is a finding."""
    with server({"/health/ready": body}) as url:
        assert codes(await check_gateway(subject_of(url, tmp_path))) == expected


@pytest.mark.parametrize(
    ("path", "codes_found"),
    [("/admin/keys", ["admin-public"]), ("/internal/llm/models", ["admin-public"]), ("/v1/usage", [])],
)
async def test_paths_for_operators_that_a_proxy_passes_on(
    path: str, codes_found: list[str], tmp_path: Path
) -> None:
    """The gateway rejects them without a key; a proxy that hides them answers 404."""
    with server(READY) as gateway, server({"/health/live": ""}, closed=frozenset({path})) as front:
        found = await check_gateway(subject_of(gateway, tmp_path, public_url=front))
    assert codes(found) == codes_found
    assert all(path in one.what for one in found if isinstance(one, DoctorFinding))


async def unreached(url: str, tmp_path: Path, ca_file: Path | None = None) -> list[str]:
    """Why the public address is not checked; empty: it is."""
    with server(READY) as gateway:
        subject = subject_of(gateway, tmp_path, public_url=url)
        settings = load(**{**subject.settings.model_dump(exclude_unset=True), "ca_file": ca_file})
        found = await check_gateway(replace(subject, settings=settings))
    return [one.reason for one in found if isinstance(one, NotChecked)]


async def test_a_public_address_whose_certificate_is_not_verified(tmp_path: Path) -> None:
    """Its authority is unknown, or it has another name; the setting that helps is named where it helps."""
    file, key = self_signed(tmp_path)
    with server({"/health/live": ""}, certificate=(file, key)) as url:
        named = url.replace("127.0.0.1", "localhost")
        (unsigned,) = await unreached(named, tmp_path)
        (other_name,) = await unreached(url, tmp_path, file)
        assert await unreached(named, tmp_path, file) == []
    assert unsigned.endswith(
        ": its certificate is not verified: self-signed certificate; LLM_PROXY__CA_FILE names a private CA"
    )
    assert "its certificate is not verified: IP address mismatch" in other_name
    assert "CA_FILE" not in other_name


async def test_a_public_address_that_is_not_there(tmp_path: Path) -> None:
    """No such name, no TLS, nothing at all."""
    with server({}) as url:
        (no_tls,) = await unreached(url.replace("http:", "https:"), tmp_path)
    (no_name,) = await unreached("https://no-such-host.invalid", tmp_path)
    (nothing,) = await unreached(url, tmp_path)
    assert no_tls.endswith(": no TLS answers there")
    assert no_name == "https://no-such-host.invalid: the name is not found"
    assert nothing.endswith(": nothing listens there")


SIDECARS: dict[str, tuple[dict[str, str], frozenset[str] | None]] = {
    "": (SIDECAR, frozenset({KEY})),
    "sidecar-open": (SIDECAR, None),
    "sidecar-key-rejected": (SIDECAR, frozenset({"another"})),
    "sidecar-admin-reachable": ({**SIDECAR, "/ui/": "x"}, frozenset({KEY})),
    "release-malicious": ({**SIDECAR, "/llmp/config": '{"litellm": "1.82.8"}'}, frozenset({KEY})),
    "release-vulnerable": ({**SIDECAR, "/llmp/config": '{"litellm": "1.83.6"}'}, frozenset({KEY})),
    "config-not-loaded": (
        {**SIDECAR, "/llmp/config": json.dumps({"litellm": "1.108.6", "changed": True})},
        frozenset({KEY}),
    ),
    "config-fault": (
        {**SIDECAR, "/llmp/config": json.dumps({"litellm": "1.108.6", "findings": [{"fault": True}]})},
        frozenset({KEY}),
    ),
}


@pytest.mark.parametrize("code", SIDECARS)
async def test_what_a_sidecar_answers(code: str, tmp_path: Path) -> None:
    """Each fault is found alone, and none where there is none."""
    served, keys = SIDECARS[code]
    with server(served, keys=keys) as url:
        found = await check_sidecars(subject_of(url, tmp_path))
    assert codes(found) == ([code] if code else [])
    assert KEY not in str(found)


async def test_a_sidecar_whose_clock_is_wrong(tmp_path: Path) -> None:
    """A minute is found, a second is not."""
    for seconds, expected in ((60, ["clock-wrong"]), (-60, ["clock-wrong"]), (0, [])):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        with server(SIDECAR, keys=frozenset({KEY}), date=date) as url:
            assert codes(await check_sidecars(subject_of(url, tmp_path))) == expected


async def test_a_sidecar_of_unknown_release_is_not_in_order(tmp_path: Path) -> None:
    """The report says that it is unknown."""
    with server({"/health/readiness": "{}", "/v1/models": "{}"}, keys=frozenset({KEY})) as url:
        found = await check_sidecars(subject_of(url, tmp_path))
    assert codes(found) == []
    assert [one.is_unknown for one in found if isinstance(one, NotChecked) and "LiteLLM" in one.what] == [
        True
    ]


async def test_a_slow_sidecar_does_not_hide_another(tmp_path: Path) -> None:
    """Each has a deadline of its own."""
    slow = frozenset({"/ui/", "/mcp", "/docs", "/redoc"})
    with server(SIDECAR, keys=frozenset({KEY}), slow=slow) as late, server(SIDECAR) as opened:
        both = subject_of(late, tmp_path)
        settings = both.settings.model_copy(update={"litellm_proxy_url": (late, opened)})
        found = await check_sidecars(replace(both, settings=settings))
    assert codes(found) == ["sidecar-away", "sidecar-open"]


async def test_an_address_of_tls_that_does_not_speak_it_is_unknown(tmp_path: Path) -> None:
    """Its certificate cannot be read."""
    with server(READY) as url:
        found = await check_certificates(subject_of(url, tmp_path, public_url=url.replace("http:", "https:")))
    assert [one.what for one in found if isinstance(one, NotChecked)] == [
        "the certificate of the public address"
    ]


def test_listeners_of_a_table_of_sockets() -> None:
    """Only those that listen, with their addresses (proc_net_tcp(5))."""
    four = (
        "  sl  local_address rem_address   st tx_queue\n"
        "   0: 0100007F:1B5F 00000000:0000 0A 00000000\n"
        "   1: 00000000:0FA0 00000000:0000 0A 00000000\n"
        "   2: 0100007F:1B5F 0100007F:C001 01 00000000\n"
    )
    six = (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000000000000000000000000000:0FA0 00000000000000000000000000000000:0000 0A\n"
        "   1: 00000000000000000000000001000000:0FA0 00000000000000000000000000000000:0000 0A\n"
    )
    assert list(listeners(four)) == [("127.0.0.1", 7007), ("0.0.0.0", 4000)]  # noqa: S104 -- read, not bound
    assert list(listeners(six)) == [("::", 4000), ("::1", 4000)]


async def test_a_sidecar_that_listens_elsewhere_on_this_machine(tmp_path: Path) -> None:
    """The machine's table of sockets is read; a server of the loopback interface alone is in order."""
    with server(SIDECAR, keys=frozenset({KEY})) as url:
        found = await check_sidecars(subject_of(url, tmp_path))
    assert "sidecar-exposed" not in codes(found)
    assert not [one for one in found if isinstance(one, NotChecked) and "listen" in one.what]
