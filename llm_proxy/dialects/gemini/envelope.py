"""What Google's dialects share around their bodies: errors and lists of models.

Source: https://ai.google.dev/api/models.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llm_proxy.dialects.dialect import HeaderPairs, ListedModel
from llm_proxy.dialects.gemini.error_body import render_error
from llm_proxy.dialects.gemini.models import model_page
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class GeminiEnvelope:
    """The part that is the same for every operation of Google's API."""

    name: str = "gemini"

    def error(self, error: APIError, request_id: str = "") -> Json:  # noqa: ARG002 -- in a header
        """Google's envelope."""
        return render_error(error)

    def status(self, error: APIError) -> int:
        """The error's own."""
        return error.status

    def headers(self, request_id: str, error: APIError | None = None) -> HeaderPairs:  # noqa: ARG002 -- the same
        """None: its clients read the body."""
        return ()

    def render_models(self, listed: Iterable[ListedModel]) -> Json:
        """Google's first page of models."""
        return model_page([*listed], {})
