"""The table of inference routes: exact paths, aliases, and paths that name a model."""

import pytest

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.model_paths import decoded_model
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes
from llm_proxy.endpoints import ENDPOINTS, served_paths
from llm_proxy.errors import BadRequest

TABLE = inference_routes(responses_dialect(None), MESSAGES)
AZURE = "/openai/deployments/"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/chat/completions/",
        "/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/chat/completions",
    ],
)
def test_a_path_without_a_name_is_one_of_the_table(path: str) -> None:
    """The route is the table's own, whatever the query."""
    assert TABLE.find("POST", path.encode(), b"api-version=v1") is TABLE.routes[0]


@pytest.mark.parametrize(
    ("path", "endpoint", "name"),
    [
        ("gpt-4o/chat/completions", "chat.completions", "gpt-4o"),
        ("gpt-4o/chat/completions/", "chat.completions", "gpt-4o"),
        ("gpt-4o/completions", "completions", "gpt-4o"),
        ("openai/gpt-4o/chat/completions", "chat.completions", "openai/gpt-4o"),
        ("openai%2Fgpt-4o/embeddings", "embeddings", "openai/gpt-4o"),
        ("a/chat/completions/chat/completions", "chat.completions", "a/chat/completions"),
        ("a%2Fchat/completions", "completions", "a/chat"),
        ("llama3:8b/responses", "responses", "llama3:8b"),
        ("gpt-4o/responses/compact", "responses", "gpt-4o"),
        ("100%25/chat/completions", "chat.completions", "100%"),
        ("%E6%A8%A1/chat/completions", "chat.completions", "模"),
        ("a%252Fb/chat/completions", "chat.completions", "a%2Fb"),
    ],
)
def test_a_deployment_s_name_is_the_model(path: str, endpoint: str, name: str) -> None:
    """The longest ending counts; a name is decoded once."""
    route = TABLE.find("POST", f"{AZURE}{path}".encode(), b"api-version=2024-10-21")
    assert route is not None
    assert (route.endpoint, route.methods, route.query) == (endpoint, ("POST",), "api-version=2024-10-21")
    assert decoded_model(route.model or "") == name


@pytest.mark.parametrize(
    "path",
    [
        "/openai/deployments//chat/completions",
        "/openai/deployments/gpt-4o",
        "/openai/deployments/gpt-4o/chat/completions//",
        "/openai/Deployments/gpt-4o/chat/completions",
        "/deployments/gpt-4o/chat/completions",
        "/openai%2Fdeployments/gpt-4o/chat/completions",
        "/admin/openai/deployments/gpt-4o/chat/completions",
    ],
)
def test_a_path_that_only_looks_like_one_is_none(path: str) -> None:
    """Without a name, or with another spelling around it."""
    assert TABLE.find("POST", path.encode()) is None


@pytest.mark.parametrize("name", ["%", "a%2", "%zz", "%ff", "a%c3", "%ed%a0%80"])
def test_a_name_that_is_not_well_encoded_is_an_error(name: str) -> None:
    """It names the model, and is not guessed at."""
    with pytest.raises(BadRequest) as caught:
        decoded_model(name)
    assert (caught.value.param, caught.value.code) == ("model", "invalid_value")


@pytest.mark.parametrize(
    "path",
    [
        "/openai/responses/resp_1",
        "/openai/v1/responses/resp_1",
        "/openai/deployments/openai/gpt-4o/responses/resp_1",
    ],
)
def test_a_stored_response_is_found_by_its_id_alone(path: str) -> None:
    """The deployment that the path names too is not asked: the id says which it is."""
    route = TABLE.find("DELETE", path.encode())
    assert route is not None
    assert (route.paths, route.model, route.methods) == ((), None, ("GET", "DELETE"))


def test_every_path_that_a_model_tells_is_one_of_its_endpoint() -> None:
    """`/v1/models` lists them from a table of names, without the routes."""
    for endpoint in ENDPOINTS:
        for path in served_paths([endpoint]):
            route = TABLE.find("POST", path.replace("{model}", "m").encode())
            assert route is not None, path
            assert route.endpoint == endpoint, path
