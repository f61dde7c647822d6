"""Which values are OpenAI's documented defaults."""

from llm_proxy.sidecar.patches.field_support import neutral_fields, sampling_fields


def test_a_default_has_its_json_type() -> None:
    """`false` is not 0; `none` is a default only if there is nothing to choose from."""
    assert neutral_fields({"logprobs": False, "frequency_penalty": 0, "store": False, "echo": False}) == [
        "logprobs", "frequency_penalty", "store", "echo",
    ]  # fmt: skip
    assert (
        neutral_fields(
            {"logprobs": 0, "frequency_penalty": False, "store": 0, "n": True, "top_logprobs": None}
        )
        == []
    )
    assert neutral_fields({"tool_choice": "none", "function_call": "none"}) == [
        "tool_choice",
        "function_call",
    ]
    assert neutral_fields({"tool_choice": "none", "tools": ["one"]}) == []
    assert sampling_fields({"temperature": 1, "top_p": 1.0, "reasoning_effort": "low"}) == [
        "temperature",
        "top_p",
    ]
