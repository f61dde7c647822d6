"""One attempt to deliver an event to a webhook, over HTTP, by the rules for addresses of strangers.

Invariants: an attempt ends within `WITHIN_S`; the address connected to is the one that was judged; redirects
are not followed; a failure's text names neither the address nor what the receiver said.
"""

import asyncio
import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from llm_proxy.notify.form import Message, Webhook, body_for, signed

WITHIN_S = 10.0
PRIVATE = "its address leads into a private network"


class DeliveryFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """The webhook did not take it; the text says why."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How events are sent.

    Attributes:
        secret: Signs JSON; empty for no signature.
        refuses: Whether an address may not be connected to; None allows every one.
        tls: Whom to trust behind `https`.
    """

    secret: str
    refuses: Callable[[str], bool] | None
    tls: ssl.SSLContext
    within_s: float = WITHIN_S

    async def send(self, webhook: Webhook, message: Message) -> int:
        """Send an event; returns the status. Raises `DeliveryFailed`."""
        body = body_for(webhook.form, message)
        headers = {"content-type": "application/json", "user-agent": "llm-proxy"}
        if webhook.form == "json":
            headers |= signed(self.secret, message.event_id, int(time.time()), body)
        return await post(self, webhook.url, body, headers)


async def post(delivery: Delivery, url: str, body: bytes, headers: dict[str, str]) -> int:
    """POST a body; returns the status, one of the 200s. Raises `DeliveryFailed`."""
    held: list[socket.socket] = []
    try:
        async with asyncio.timeout(delivery.within_s):
            status = await asyncio.to_thread(_post, delivery, url, body, headers, held)
    except TimeoutError:
        raise DeliveryFailed("it did not answer in time") from None
    except socket.gaierror:
        raise DeliveryFailed("its host is not found") from None
    except ssl.SSLError:
        raise DeliveryFailed("TLS failed") from None
    except (OSError, http.client.HTTPException, ValueError) as fault:
        raise DeliveryFailed(f"the connection failed: {type(fault).__name__}") from None
    finally:
        for one in held:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # a thread that still waits ends
    if 300 <= status < 400:
        raise DeliveryFailed(f"it answered {status}: redirects are not followed")
    if status >= 300:
        raise DeliveryFailed(f"it answered {status}")
    return status


def _post(
    delivery: Delivery, url: str, body: bytes, headers: dict[str, str], held: list[socket.socket]
) -> int:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    opened = _connected(delivery, host, parts.port or (443 if secure else 80))
    held.append(opened)
    connection = http.client.HTTPConnection(host, timeout=delivery.within_s)
    try:
        if secure:
            opened = delivery.tls.wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
            held[:] = [opened]
            opened.do_handshake()
        connection.sock = opened
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {"host": parts.netloc, **headers})
        return connection.getresponse().status
    finally:
        connection.close()
        opened.close()


def _connected(delivery: Delivery, host: str, port: int) -> socket.socket:
    """A connection to one of the host's addresses; none, unless every one of them is allowed."""
    found = list(
        dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    )
    if delivery.refuses is not None and any(delivery.refuses(address) for address in found):
        raise DeliveryFailed(PRIVATE)
    fault: OSError = OSError("no address")
    for address in found:
        try:
            return socket.create_connection((address, port), timeout=delivery.within_s)
        except OSError as refused:
            fault = refused
    raise fault
