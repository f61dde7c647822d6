"""The dialect of rerank: Cohere's and Jina's fields, and errors that the clients of both read.

Invariants: bodies pass unchanged; an error is OpenAI's envelope with Cohere's `id` and `message`, and Jina's
`detail`.
"""

from dataclasses import dataclass

from llm_proxy.dialects.openai import OpenAIDialect
from llm_proxy.errors import APIError
from llm_proxy.json_access import Json


@dataclass(frozen=True, slots=True)
class CohereDialect(OpenAIDialect):
    """Cohere's spelling of errors, over OpenAI's of bodies."""

    name: str = "cohere"

    def error(self, error: APIError, request_id: str = "") -> Json:
        """OpenAI's envelope, and the message where Cohere and Jina have it."""
        body = error.body()
        message: object = body["error"]["message"]
        return {"id": request_id, "message": message, "detail": message, **body}


COHERE = CohereDialect()
