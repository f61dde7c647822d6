"""Operations that the gateway does not serve: their paths and aliases, and nothing that is served."""

import pytest

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes
from llm_proxy.edge.unserved_paths import is_cohere, not_served


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/files", "files"),
        ("/files/file-1/content", "files"),
        ("/openai/files", "files"),
        ("/openai/v1/batches/b", "batches"),
        ("/openai/deployments/openai/gpt-4o/files", "files"),
        ("/v1/uploads/u/parts", "uploads"),
        ("/v1/chat/completions/chatcmpl-1", "stored chat completions"),
        ("/v1/images/variations", "image variations"),
        ("/openai/realtime", "realtime"),
        ("/v1/realtime/client_secrets", "realtime"),
        ("/v1/assistants", "assistants"),
        ("/v1/vector_stores/vs/search", "vector stores"),
        ("/v1/messages/batches", "batches of messages"),
        ("/v2/chat", "Cohere's chat"),
        ("/v1/datasets/d", "Cohere's datasets"),
        ("/v1beta/files/abc", "files; send data inline"),
        ("/upload/v1beta/files", "files; send data inline"),
        ("/v1beta/cachedContents", "cached contents"),
    ],
)
def test_an_operation_is_named(path: str, words: str) -> None:
    """With any alias that a served path has, and below it."""
    assert not_served(path).startswith(f" The gateway does not serve {words}")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/filesystem",
        "/openai/deployments/files",
        "/v1/chat/completions/",
        "/v2/files",
        "/admin/files",
        "/",
    ],
)
def test_another_path_is_not(path: str) -> None:
    """A beginning of a word is no path."""
    assert not_served(path) == ""


def test_nothing_that_is_served_is_said_not_to_be() -> None:
    """But for the list of what it stores, a method of a served path."""
    table = inference_routes(responses_dialect(None), MESSAGES)
    served = [path for route in table.routes for path in route.paths]
    assert [path for path in served if not_served(path)] == ["/v1/chat/completions", "/chat/completions"]


def test_cohere_s_paths_are_known() -> None:
    """Those of its own; a stored chat completion is OpenAI's."""
    assert is_cohere("/v2/chat")
    assert is_cohere("/v1/tokenize")
    assert not is_cohere("/v1/chat/completions/chatcmpl-1")
    assert not is_cohere("/v1/models")
