"""A provider's answer to a direct call, as LiteLLM's own request gets it."""

import httpx

from llm_proxy.sidecar.direct_requests import ProviderAnswer
from llm_proxy.sidecar.provider_errors import find_response


def test_an_empty_failure_is_the_provider_s() -> None:
    """An answer with no header but how it was sent is an answer: no connection failed."""
    answer = ProviderAnswer(520, {"transfer-encoding": "chunked"}, b"", b"", 0.1)
    response = answer.as_response(httpx.Request("POST", "http://provider.test/v1/chat/completions"))
    failure = httpx.HTTPStatusError("", request=response.request, response=response)
    found = find_response(failure)
    assert found is not None
    assert found.status == 520
