"""Token details from usage objects of many providers, valid and invalid."""

from typing import Any

import pytest

from llm_proxy.token_details import TokenDetails, read_details, service_tier

NOTHING = TokenDetails(None, None, None, {})


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({}, NOTHING),
        ({"prompt_tokens_details": None, "completion_tokens_details": []}, NOTHING),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, TokenDetails(0, None, None, {})),
        (
            {"cache_read_input_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}},
            TokenDetails(4, None, None, {}),
        ),
        ({"prompt_cache_hit_tokens": 4}, TokenDetails(4, None, None, {})),
        ({"cache_creation_input_tokens": 0}, TokenDetails(None, 0, None, {})),
        (
            {"prompt_tokens_details": {"cache_write_tokens": 0, "cache_creation_tokens": 5}},
            TokenDetails(None, 5, None, {}),
        ),
        (
            {
                "prompt_tokens_details": {
                    "cached_tokens": 1,
                    "cache_creation_token_details": {"ephemeral_1h_input_tokens": 7},
                }
            },
            TokenDetails(1, None, None, {"cache_write_1h_tokens": 7}),
        ),
        (
            {
                "completion_tokens_details": {
                    "reasoning_tokens": 2,
                    "audio_tokens": 3,
                    "rejected_prediction_tokens": 1,
                }
            },
            TokenDetails(None, None, 2, {"completion_audio_tokens": 3, "rejected_prediction_tokens": 1}),
        ),
        (
            {
                "prompt_tokens_details": {
                    "audio_tokens": -1,
                    "image_tokens": "3",
                    "text_tokens": True,
                    "video_tokens": 10**10,
                }
            },
            NOTHING,
        ),
    ],
)
def test_details_are_what_the_usage_states(usage: dict[str, Any], read: TokenDetails) -> None:
    """Totals of 0 are kept, details of 0 are left out."""
    assert read_details(usage) == read


@pytest.mark.parametrize("tier", [None, 5, "", "a\nb", "\u00e9"])
def test_invalid_service_tier_is_none(tier: object) -> None:
    """The response's tier takes precedence over its usage's."""
    assert service_tier({"service_tier": tier}, {}) is None
    assert service_tier({"service_tier": "flex"}, {"service_tier": "priority"}) == "flex"
