"""Webhooks: the body of a notification (signed JSON, Slack, Teams) and one attempt to deliver it.

Invariants: names that callers chose never become mentions, links or markup; a webhook's address is a secret
and is named by a digest alone. An attempt ends within `TIMEOUT_S`, connects to the address that was checked,
and follows no redirect. Sources: https://www.standardwebhooks.com; Slack's incoming webhooks;
Teams' Workflows webhooks and https://adaptivecards.io (a `TextRun` knows no markup).
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from llm_proxy.json_access import Json
from llm_proxy.notify.event import summarize
from llm_proxy.service_urls import WebhookFormat

SECRET_PREFIX = "whsec_"  # noqa: S105 -- the prefix of Standard Webhooks' secrets


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver of notifications.

    Attributes:
        name: Its name in logs and tables: format, host and a digest of the address.
    """

    format: WebhookFormat
    url: str

    @property
    def name(self) -> str:
        """Identifies the webhook without revealing its address."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return f"{self.format}:{urlsplit(self.url).hostname}:{digest}"


@dataclass(frozen=True, slots=True)
class StoredNotification:
    """A notification as the outbox stores it."""

    event_id: UUID
    kind: str
    created_at: datetime
    facts: Json
    tenant: str | None = None
    user: str | None = None

    @property
    def summary(self) -> str:
        """The event as one sentence."""
        return summarize(self.kind, self.facts, self.tenant, self.user)

    @property
    def as_json(self) -> Json:
        """The body for `json` webhooks."""
        named = {name: value for name, value in (("tenant", self.tenant), ("user", self.user)) if value}
        return {
            "id": str(self.event_id),
            "type": self.kind,
            "timestamp": self.created_at.isoformat(),
            "data": {"message": self.summary, **self.facts, **named},
        }


def webhooks_from_settings(given: tuple[tuple[WebhookFormat, str], ...]) -> tuple[Webhook, ...]:
    """Returns the webhooks of the settings."""
    return tuple(Webhook(form, url) for form, url in given)


def webhook_body(form: WebhookFormat, message: StoredNotification) -> bytes:
    """Returns the body of a notification in a webhook's format."""
    if form == "json":
        body = message.as_json
    elif form == "slack":
        body = {"text": _escape_for_slack(message.summary)}
    else:
        body = _teams_card(message)
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def signature_headers(
    secrets: Sequence[str], event_id: UUID, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """Returns the headers of Standard Webhooks: id, timestamp and a signature for each secret.

    Args:
        secrets: `whsec_` and base64, or any other text, the newest first; none for no signature.
        event_id: The same in every attempt.
        timestamp_s: The time of the attempt, in seconds since 1970.
        body: The body as it is sent.
    """
    headers = {"webhook-id": str(event_id), "webhook-timestamp": str(timestamp_s)}
    if secrets:
        content = f"{event_id}.{timestamp_s}.".encode() + body
        digests = (hmac.digest(signing_key(secret), content, "sha256") for secret in secrets)
        headers["webhook-signature"] = " ".join(f"v1,{base64.b64encode(one).decode()}" for one in digests)
    return headers


def signing_key(secret: str) -> bytes:
    """Returns the key of a secret."""
    if secret.startswith(SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            return secret.encode()
    return secret.encode()


def _escape_for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _teams_card(message: StoredNotification) -> Json:
    run = {"type": "TextRun", "text": message.summary, "weight": "Bolder"}
    origin = {
        "type": "TextRun",
        "text": f"llm-proxy, {message.kind}, {message.created_at:%Y-%m-%d %H:%M} UTC",
    }
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "RichTextBlock", "inlines": [one]} for one in (run, origin)],
    }
    attachment = {
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": None,
        "content": card,
    }
    return {"type": "message", "attachments": [attachment]}


TIMEOUT_S = 10.0
PRIVATE_ADDRESS = "its address leads into a private network"


class DeliveryFailed(Exception):  # noqa: N818 -- errors are named for the state they report
    """The webhook did not accept the notification; the message says why."""


@dataclass(frozen=True, slots=True)
class WebhookSender:
    """Sends notifications to webhooks.

    Attributes:
        secrets: Each signs `json` bodies; none for no signature.
        rejects_address: Returns whether an address must not be connected to; None allows every address.
        tls: The trusted certificates for `https`.
    """

    secrets: Sequence[str]
    rejects_address: Callable[[str], bool] | None
    tls: ssl.SSLContext
    timeout_s: float = TIMEOUT_S

    async def send(self, webhook: Webhook, message: StoredNotification) -> int:
        """Sends a notification once; returns the status (2xx). Raises `DeliveryFailed`."""
        body = webhook_body(webhook.format, message)
        headers = {"content-type": "application/json", "user-agent": "llm-proxy"}
        if webhook.format == "json":
            headers |= signature_headers(self.secrets, message.event_id, int(time.time()), body)
        return await post(self, webhook.url, body, headers)


async def post(sender: WebhookSender, url: str, body: bytes, headers: dict[str, str]) -> int:
    """Posts a body once; returns the status (2xx). Raises `DeliveryFailed`."""
    held: list[socket.socket] = []
    try:
        async with asyncio.timeout(sender.timeout_s):
            status = await asyncio.to_thread(_post, sender, url, body, headers, held)
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
                one.shutdown(socket.SHUT_RDWR)  # ends the thread if it still waits
    if 300 <= status < 400:
        raise DeliveryFailed(f"it answered {status}: redirects are not followed")
    if status >= 300:
        raise DeliveryFailed(f"it answered {status}")
    return status


def _post(
    sender: WebhookSender, url: str, body: bytes, headers: dict[str, str], held: list[socket.socket]
) -> int:
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    opened = _connect(sender, host, parts.port or (443 if secure else 80))
    held.append(opened)
    connection = http.client.HTTPConnection(host, timeout=sender.timeout_s)
    try:
        if secure:
            opened = sender.tls.wrap_socket(opened, server_hostname=host, do_handshake_on_connect=False)
            held[:] = [opened]
            opened.do_handshake()
        connection.sock = opened
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {"host": parts.netloc, **headers})
        return connection.getresponse().status
    finally:
        connection.close()
        opened.close()


def _connect(sender: WebhookSender, host: str, port: int) -> socket.socket:
    """Returns a connection to one of the host's addresses, if every address of the host is allowed."""
    found = list(
        dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    )
    if sender.rejects_address is not None and any(sender.rejects_address(address) for address in found):
        raise DeliveryFailed(PRIVATE_ADDRESS)
    fault: OSError = OSError("no address")
    for address in found:
        try:
            return socket.create_connection((address, port), timeout=sender.timeout_s)
        except OSError as error:
            fault = error
    raise fault
