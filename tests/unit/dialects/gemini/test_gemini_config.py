"""`generationConfig` and the fields beside it, translated into chat bodies."""

import pytest
from unit.dialects.gemini.test_gemini_request import (
    CLAUDE,
    COMPATIBLE,
    GOOGLE,
    OPENAI,
    configured,
    fault,
    translated,
)

from llm_proxy.json_access import Json


class TestConfig:
    """`generationConfig`, and the fields beside it."""

    def test_sampling(self) -> None:
        """Each under OpenAI's name; Google's usual `topK` asks OpenAI for nothing."""
        config = {
            "temperature": 0.5, "topP": 0.9, "topK": 64, "maxOutputTokens": 9, "candidateCount": 2,
            "stopSequences": ["x"], "presencePenalty": 1, "frequencyPenalty": -1, "seed": 4,
            "responseLogprobs": True, "logprobs": 3, "responseModalities": ["TEXT"],
        }  # fmt: skip
        wanted = {
            "temperature": 0.5, "top_p": 0.9, "top_k": 64, "max_tokens": 9, "n": 2, "stop": ["x"],
            "presence_penalty": 1, "frequency_penalty": -1, "seed": 4, "logprobs": True, "top_logprobs": 3,
        }  # fmt: skip
        assert configured(**config) == wanted
        assert configured(OPENAI, topK=64) == {}
        assert configured(OPENAI, topK=3) == {"top_k": 3}
        assert configured(CLAUDE, temperature=1, topP=0.95, topK=64) == {}
        assert configured(CLAUDE, temperature=0.5) == {"temperature": 0.5}

    @pytest.mark.parametrize(
        ("providers", "thinking", "sent"),
        [
            (COMPATIBLE, {"includeThoughts": True}, {}),
            (COMPATIBLE, {"thinkingBudget": 0}, {}),
            (COMPATIBLE, {"thinkingBudget": -1}, {"reasoning_effort": "medium"}),
            (COMPATIBLE, {"thinkingBudget": 9000}, {"reasoning_effort": "high"}),
            (OPENAI, {"thinkingLevel": "MINIMAL"}, {"reasoning_effort": "minimal"}),
            (CLAUDE, {"thinkingBudget": 4096}, {"thinking": {"type": "enabled", "budget_tokens": 4096}}),
        ],
    )
    def test_thinking(self, providers: tuple[str, ...], thinking: Json, sent: Json) -> None:
        """A level is an effort; a budget is Claude's own, elsewhere an effort."""
        assert configured(providers, thinkingConfig=thinking) == sent

    def test_claudes_budget_fits_into_the_answer(self) -> None:
        """Google counts thoughts as part of the answer, and Claude wants less than that."""
        thinking = {"thinkingBudget": 4096}
        fitted = configured(CLAUDE, maxOutputTokens=2000, thinkingConfig=thinking)
        assert fitted == {"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1999}}
        assert configured(CLAUDE, maxOutputTokens=500, thinkingConfig=thinking) == {"max_tokens": 500}

    def test_structured_output(self) -> None:
        """Either schema, strict where OpenAI takes it; plain JSON without one."""
        closed: Json = {"type": "object", "properties": {}, "additionalProperties": False, "required": []}
        found = configured(responseMimeType="application/json", responseJsonSchema=closed)["response_format"]
        assert found == {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": closed, "strict": True},
        }
        google = {"type": "ARRAY", "items": {"type": "STRING"}}
        inner = {"type": "array", "items": {"type": "string"}}
        wanted = {"responseMimeType": "application/json", "responseSchema": google}
        assert configured(GOOGLE, **wanted)["response_format"]["json_schema"]["schema"] == inner
        found = configured(**wanted)["response_format"]["json_schema"]
        assert found["schema"]["properties"] == {"value": inner}
        assert found["strict"] is True
        assert configured(responseMimeType="application/json") == {"response_format": {"type": "json_object"}}
        assert configured(responseMimeType="text/plain") == {}

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
            ({"generationConfig": {"responseMimeType": "text/html"}}, "generationConfig.responseMimeType"),
            ({"generationConfig": {"responseSchema": {}}}, "generationConfig.responseMimeType"),
            ({"generationConfig": {"responseModalities": ["AUDIO"]}}, "generationConfig.responseModalities"),
            ({"generationConfig": {"speechConfig": {"a": 1}}}, "generationConfig.speechConfig"),
            ({"generationConfig": {"routingConfig": {"a": 1}}}, "generationConfig.routingConfig"),
            ({"labels": {"a": "b"}}, "labels"),
            ({"store": True}, "store"),
            ({"serviceTier": "fastest"}, "serviceTier"),
            ({"toolConfig": {"retrievalConfig": {"a": 1}}}, "toolConfig.retrievalConfig"),
        ],
    )
    def test_what_has_no_place_is_refused(self, fields: Json, path: str) -> None:
        """By its path, never dropped."""
        assert fault(**fields)[0] == path

    def test_safety_settings_go_to_google_alone(self) -> None:
        """Other providers have none; the field asks them for nothing."""
        settings = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
        assert translated(GOOGLE, safetySettings=settings)[0]["safety_settings"] == settings
        assert "safety_settings" not in translated(safetySettings=settings)[0]

    def test_tiers(self) -> None:
        """Under OpenAI's names."""
        assert translated(serviceTier="SERVICE_TIER_FLEX")[0]["service_tier"] == "flex"
