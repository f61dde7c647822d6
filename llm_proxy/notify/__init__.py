"""Notifications to operators: what is worth one, kept once for all replicas, delivered to webhooks."""

from llm_proxy.notify.event import Event, trial_event
from llm_proxy.notify.notifier import Notifier, Watched
from llm_proxy.notify.outbox import Outbox
from llm_proxy.notify.webhook import Delivery, DeliveryFailed, Message, Webhook, webhooks_of

__all__ = [
    "Delivery",
    "DeliveryFailed",
    "Event",
    "Message",
    "Notifier",
    "Outbox",
    "Watched",
    "Webhook",
    "trial_event",
    "webhooks_of",
]
