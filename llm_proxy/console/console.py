"""What every page of the console gets: settings, stores, and how an answer is made.

Invariants: a page answers with `render` or `redirect`; a notice is shown once, on the page after a change.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, unquote

from markupsafe import Markup
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from llm_proxy.console.access import CSRF_FIELD, ConsoleAccess, Viewer
from llm_proxy.console.data import ConsoleData
from llm_proxy.console.oidc import OpenIdProvider
from llm_proxy.console.rendering import Templates
from llm_proxy.console.sign_in_attempts import SignInAttempts
from llm_proxy.path_names import name_in
from llm_proxy.settings import Settings

if TYPE_CHECKING:
    from llm_proxy.console.navigation import Page

PathName = Annotated[str, AfterValidator(name_in)]
"""A name in the path of a page, as `page_segment` wrote it."""
NOTICE_COOKIE = "llmp_notice"
_MAX_NOTICE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Console:
    """What a page needs.

    Attributes:
        settings: Of the gateway and the console.
        data: The stores.
        attempts: What attempts to sign in pass.
        oidc: The identity provider; None without one.
        pages: All pages, in the order of the navigation.
    """

    settings: Settings
    data: ConsoleData
    access: ConsoleAccess
    templates: Templates
    attempts: SignInAttempts
    oidc: OpenIdProvider | None
    pages: tuple["Page", ...]

    def render(
        self, request: Request, viewer: Viewer | None, name: str, *, status: int = 200, **values: object
    ) -> HTMLResponse:
        """Returns a page, or a fragment for htmx.

        Args:
            request: The request.
            viewer: Who is signed in; None on a page without sign-in.
            name: The template.
            status: The HTTP status.
            **values: What the template needs.
        """
        notice = unquote(request.cookies.get(NOTICE_COOKIE, ""))
        given = {
            "viewer": viewer,
            "navigation": [one for one in self.pages if one.label and viewer and viewer.role in one.roles],
            "path": request.url.path,
            "notice": notice,
            "provider": self.oidc.host if self.oidc else "",
            "csrf": lambda: _csrf_field(viewer),
        }
        page = HTMLResponse(self.templates.render(name, given | values), status)
        if notice:
            page.delete_cookie(NOTICE_COOKIE)
        return page

    def redirect(self, path: str, *, notice: str = "") -> Response:
        """Returns a redirect after a change, with a sentence that the next page shows once."""
        answer = RedirectResponse(path, 303)
        if notice:
            answer.set_cookie(
                NOTICE_COOKIE,
                quote(notice[:_MAX_NOTICE_CHARS]),
                max_age=60,
                httponly=True,
                samesite="strict",
                secure=self.access.is_secure,
            )
        return answer


def _csrf_field(viewer: Viewer | None) -> Markup:
    token = viewer.csrf if viewer else ""
    return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token)
