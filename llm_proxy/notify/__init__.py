"""Notifications to operators: events found, stored once for all replicas, delivered to webhooks."""

from llm_proxy.notify.event import Notification, make_test_notification
from llm_proxy.notify.notifier import Notifier, NotifierSources
from llm_proxy.notify.outbox import Outbox
from llm_proxy.notify.webhook import (
    DeliveryFailed,
    StoredNotification,
    Webhook,
    WebhookSender,
    webhooks_from_settings,
)

__all__ = [
    "DeliveryFailed",
    "Notification",
    "Notifier",
    "NotifierSources",
    "Outbox",
    "StoredNotification",
    "Webhook",
    "WebhookSender",
    "make_test_notification",
    "webhooks_from_settings",
]
