"""The field policy: published fields at top level, LiteLLM's names rejected, the rest for the model."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.dialects.parsing import ENDPOINT_NAMES, HELLO, MODELS, error_of, parse

from llm_proxy.dialects import Call, Dialect
from llm_proxy.dialects.dialect import BodyLimits
from llm_proxy.dialects.generate import GENERATE
from llm_proxy.dialects.internal import INTERNAL
from llm_proxy.dialects.openai import OPENAI
from llm_proxy.dialects.request.openai_schema import FIELDS
from llm_proxy.dialects.request_options import RequestOptions
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import APIError


class TestFieldPolicy:
    """Published fields at top level, LiteLLM's names rejected, the rest for the model."""

    def test_other_names_travel_inside_extra_body_untouched(self) -> None:
        """Whatever they hold."""
        own = {"top_k": 5, "chat_template_kwargs": {"z": 1, "a": [None, 1.5]}, "guided_json": None}
        assert parse(**own).body["extra_body"] == own
        assert parse(extra_body={"top_k": 5}, min_p=0.1).body["extra_body"] == {"min_p": 0.1, "top_k": 5}

    def test_for_anthropic_they_travel_at_top_level(self) -> None:
        """Its API refuses an object of that name; LiteLLM passes unknown names on."""
        assert parse(model="claude", top_k=5).body == {"model": "claude", "messages": HELLO, "top_k": 5}

    @pytest.mark.parametrize(
        "name",
        [
            "api_base",
            "api_key",
            "fallbacks",
            "cache",
            "num_retries",
            "timeout",
            "mock_response",
            "custom_llm_provider",
            "extra_headers",
            "litellm_metadata",
            "_litellm_anything",
            "guardrails",
            "no-log",
            "models",
            "user_api_key_hash",
        ],
    )
    def test_a_name_litellm_owns_is_refused_wherever_it_stands(self, name: str) -> None:
        """At top level, in `extra_body`; named in full."""
        assert (error_of(**{name: "x"}).param, error_of(**{name: "x"}).code) == (name, "unknown_parameter")
        assert error_of(extra_body={name: "x"}).param == f"extra_body.{name}"

    @pytest.mark.parametrize(
        "name", ["api_base", "user_api_key", "litellm_x", "guardrails", "applied_guardrails"]
    )
    def test_litellms_controls_are_refused_inside_metadata(self, name: str) -> None:
        """Though it would not see them."""
        assert error_of(metadata={name: "x"}).param == f"metadata.{name}"

    def test_metadata_never_reaches_litellm(self) -> None:
        """It goes to the provider beside `store`, where OpenAI keeps it, and nowhere else."""
        labels = {"team": "a", "tags": "x"}
        assert "metadata" not in parse(metadata=labels).body
        stored = parse(metadata=labels, store=True).body
        assert "metadata" not in stored
        assert stored["extra_body"]["metadata"] == labels
        assert parse(model="claude", metadata=labels, store=True).body == {
            "model": "claude",
            "messages": HELLO,
            "store": True,
        }

    @pytest.mark.parametrize("name", ["model", "messages", "n", "stream", "max_tokens", "metadata"])
    def test_a_published_field_inside_extra_body_is_refused(self, name: str) -> None:
        """There it would overrule the one that was checked."""
        assert error_of(extra_body={name: 1}).param == f"extra_body.{name}"

    def test_extra_body_itself_is_an_object_or_absent(self) -> None:
        """And a name stands once."""
        assert "extra_body" not in parse(extra_body=None).body
        assert "extra_body" not in parse(extra_body={}).body
        assert error_of(extra_body=[]).code == "invalid_type"
        assert error_of(top_k=1, extra_body={"top_k": 2}).param == "extra_body.top_k"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
field_names = st.sampled_from(
    sorted(
        {name for endpoint in FIELDS.values() for name in endpoint} | {"extra_body", "provider", "maxTokens"}
    )
)
roles = st.sampled_from(["user", "assistant", "tool", "system", "function"])
message_like = st.dictionaries(
    st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "name"]), roles | json_values
)
bodies = st.dictionaries(
    field_names | st.text(max_size=6), json_values | st.lists(message_like, max_size=3), max_size=6
)


@pytest.mark.parametrize("dialect", [OPENAI, INTERNAL, GENERATE], ids=lambda dialect: dialect.name)
@given(endpoint=st.sampled_from(ENDPOINT_NAMES), body=bodies)
def test_any_body_is_a_call_or_an_api_error(
    dialect: Dialect, endpoint: Endpoint, body: dict[str, Any]
) -> None:
    """Any JSON, in every dialect."""
    try:
        sent = orjson.dumps(body)
    except (orjson.JSONEncodeError, TypeError):
        return
    call = _outcome(dialect, endpoint, sent)
    if isinstance(call, APIError):
        assert call.message
        assert orjson.dumps(dialect.error(call))
    else:
        assert orjson.loads(orjson.dumps(call.body))["model"] == call.group
        assert "metadata" not in call.body


def _outcome(dialect: Dialect, endpoint: Endpoint, body: bytes) -> Call | APIError:
    """The call, or its error."""
    try:
        return dialect.parse(endpoint, body, RequestOptions(), MODELS, BodyLimits())
    except APIError as wrong:
        return wrong
