"""`GET /admin/notifications`: notifications and their deliveries; checks of the webhook settings.

Invariants: read only; a webhook's address is never shown: it is named by its form, host and a digest.
"""

from fastapi import APIRouter, Depends

from llm_proxy.dialects.request.url_guard import is_private_host, url_error
from llm_proxy.edge.auth import ActorDependency
from llm_proxy.edge.routes.audit import BeforeQuery, LimitQuery, parse_time_filter
from llm_proxy.errors import StoreUnavailable
from llm_proxy.identity.postgres_store import database_errors
from llm_proxy.json_access import Json
from llm_proxy.notify import Outbox, WebhookSender
from llm_proxy.setting_sources import PREFIX
from llm_proxy.settings import Settings, several


def router(outbox: Outbox | None, *, require_actor: ActorDependency) -> APIRouter:
    """Returns the route; it is 503 without a database."""
    routes = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(require_actor)])

    @routes.get(
        "/notifications",
        summary="Notifications and their deliveries, newest first.",
        responses={
            400: {"description": "`before` is not a time."},
            401: {"description": "No admin key."},
            503: {"description": "The database is unavailable."},
        },
    )
    async def notifications(limit: LimitQuery = 100, before: BeforeQuery = None) -> Json:
        if outbox is None:
            raise StoreUnavailable("Notifications need a database (DATABASE_URL).")
        async with database_errors():
            found = await outbox.list_notifications(limit=limit, before=parse_time_filter("before", before))
        return {"data": found, "has_more": len(found) >= limit}

    return routes


def webhook_delivery(settings: Settings) -> WebhookSender:
    """Returns the sender for these settings."""
    rejects = None if settings.notify_allow_private else is_private_host
    return WebhookSender(several(settings.notify_secret), rejects, settings.tls)


def webhook_errors(settings: Settings, *, kept: bool = True) -> list[str]:
    """Returns what is wrong with the webhook settings, a sentence each; with an error nothing starts.

    `kept`: events are stored in the database, as the gateway does.
    """
    errors: list[str] = []
    name = f"{PREFIX}NOTIFY_WEBHOOKS"
    forms = {form for form, _ in settings.webhooks}
    if forms and kept and (settings.database_url is None or settings.llm_mode == "mock"):
        errors.append(f"{name} is set and DATABASE_URL is not (or the mode is mock): no event could be kept")
    if "json" in forms and settings.environment == "production" and settings.notify_secret is None:
        errors.append(
            f"{name} has a json webhook and {PREFIX}NOTIFY_SECRET is not set: nothing would be signed"
        )
    if not settings.notify_allow_private:
        for number, (form, url) in enumerate(settings.webhooks, 1):
            if (error := url_error(url)) is not None:
                allow = f"{PREFIX}NOTIFY_ALLOW_PRIVATE=true allows it"
                errors.append(f"{name}, number {number} ({form}): {error}; {allow}")
    return errors
