"""A page of the console: its name, its address, the roles that see it."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter

from llm_proxy.console.console import Console
from llm_proxy.identity.console_sessions import ViewerRole


@dataclass(frozen=True, slots=True)
class Page:
    """A page, or several that belong together.

    Attributes:
        label: In the navigation; empty for a page that is not there.
        path: Where it is.
        roles: Who sees it in the navigation; its routes check for themselves.
        router: Makes its routes.
    """

    label: str
    path: str
    roles: tuple[ViewerRole, ...]
    router: Callable[[Console], APIRouter]
