"""The pages of the console, in the order of the navigation; the first that a role sees is its start page."""

from llm_proxy.console.access import EVERYBODY, GLOBAL, READERS
from llm_proxy.console.navigation import Page
from llm_proxy.console.pages import find, live, notifications, request, requests, sessions, sign_in

PAGES = (
    Page("Live", "/live", READERS, live.router),
    Page("Requests", "/requests", EVERYBODY, requests.router),
    Page("", "/requests", (), request.router),
    Page("", "/find", (), find.router),
    Page("Notifications", "/notifications", GLOBAL, notifications.router),
    Page("Sessions", "/sessions", EVERYBODY, sessions.router),
    Page("", "/sign-in", (), sign_in.router),
)
