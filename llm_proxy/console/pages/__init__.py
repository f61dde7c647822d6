"""The pages of the console, in the order of the navigation; the first that a role sees is its start page."""

from llm_proxy.console.access import EVERYBODY, GLOBAL, READERS
from llm_proxy.console.navigation import Page
from llm_proxy.console.pages import (
    audit,
    find,
    key_changes,
    keys,
    limits,
    live,
    models,
    notifications,
    overview,
    playground,
    request,
    requests,
    runs,
    self_check,
    sessions,
    settings_page,
    sign_in,
    tenants,
    usage,
)

PAGES = (
    Page("Overview", "/overview", EVERYBODY, overview.router),
    Page("Live", "/live", EVERYBODY, live.router),
    Page("Requests", "/requests", EVERYBODY, requests.router),
    Page("", "/requests", (), request.router),
    Page("", "/find", (), find.router),
    Page("Usage", "/usage", EVERYBODY, usage.router),
    Page("Runs", "/runs", EVERYBODY, runs.router),
    Page("", "/runs/release", (), runs.release_router),
    Page("", "/keys", (), key_changes.router),
    Page("Keys", "/keys", EVERYBODY, keys.router),
    Page("Tenants", "/tenants", READERS, tenants.router),
    Page("Limits", "/limits", GLOBAL, limits.router),
    Page("Models", "/models", GLOBAL, models.router),
    Page("Playground", "/playground", playground.ROLES, playground.router),
    Page("Audit", "/audit", GLOBAL, audit.router),
    Page("Notifications", "/notifications", GLOBAL, notifications.router),
    Page("Sessions", "/sessions", EVERYBODY, sessions.router),
    Page("Settings", "/settings", GLOBAL, settings_page.router),
    Page("Self-check", "/self-check", GLOBAL, self_check.router),
    Page("", "/sign-in", (), sign_in.router),
    Page("", "/sign-in/oidc", (), sign_in.oidc_router),
)
