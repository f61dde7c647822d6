"""What a webhook is sent: JSON signed by HMAC, Slack's form, Teams' form.

Pure. Invariants: a name that a caller chose is shown as it stands, and never becomes a mention, a link or
markup; a webhook's address is a secret and is named by a digest alone.
Sources: https://www.standardwebhooks.com (headers, signature); Slack's incoming webhooks (escaping); Teams'
Workflows webhooks and https://adaptivecards.io (a `TextRun` knows no markup).
"""

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

from llm_proxy.json_access import Json
from llm_proxy.notify.event import headline
from llm_proxy.store_urls import WebhookForm

SECRET_PREFIX = "whsec_"  # noqa: S105 -- what a secret of Standard Webhooks begins with


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events are delivered.

    Attributes:
        name: For logs and tables: the form, the host and a digest of the address.
    """

    form: WebhookForm
    url: str

    @property
    def name(self) -> str:
        """Tells it from others without its address."""
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:12]
        return f"{self.form}:{urlsplit(self.url).hostname}:{digest}"


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it is kept, to be delivered."""

    event_id: UUID
    kind: str
    created_at: datetime
    facts: Json
    tenant: str | None = None
    user: str | None = None

    @property
    def text(self) -> str:
        """One sentence."""
        return headline(self.kind, self.facts, self.tenant, self.user)

    @property
    def document(self) -> Json:
        """All of it."""
        named = {name: value for name, value in (("tenant", self.tenant), ("user", self.user)) if value}
        return {
            "id": str(self.event_id),
            "type": self.kind,
            "timestamp": self.created_at.isoformat(),
            "data": {"message": self.text, **self.facts, **named},
        }


def webhooks_of(given: tuple[tuple[WebhookForm, str], ...]) -> tuple[Webhook, ...]:
    """The webhooks of the settings."""
    return tuple(Webhook(form, url) for form, url in given)


def body_for(form: WebhookForm, message: Message) -> bytes:
    """What is sent of an event."""
    if form == "json":
        body = message.document
    elif form == "slack":
        body = {"text": _for_slack(message.text)}
    else:
        body = _card(message)
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def signed(secret: str, event_id: UUID, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows the sender, the event and its age.

    Args:
        secret: `whsec_` and base64, or any other text as it stands; empty for no signature.
        event_id: The same at every attempt.
        timestamp_s: When it is sent.
        body: As it is sent.
    """
    headers = {"webhook-id": str(event_id), "webhook-timestamp": str(timestamp_s)}
    if secret:
        content = f"{event_id}.{timestamp_s}.".encode() + body
        digest = hmac.digest(key_of(secret), content, "sha256")
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def key_of(secret: str) -> bytes:
    """The key a secret stands for."""
    if secret.startswith(SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            return secret.encode()
    return secret.encode()


def _for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _card(message: Message) -> Json:
    run = {"type": "TextRun", "text": message.text, "weight": "Bolder"}
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
