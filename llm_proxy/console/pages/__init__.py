"""The pages of the console, in the order of the navigation; the first that a role sees is its start page."""

from llm_proxy.console.access import EVERYBODY, GLOBAL
from llm_proxy.console.navigation import Page
from llm_proxy.console.pages import notifications, sessions, sign_in

PAGES = (
    Page("Notifications", "/notifications", GLOBAL, notifications.router),
    Page("Sessions", "/sessions", EVERYBODY, sessions.router),
    Page("", "/sign-in", (), sign_in.router),
)
