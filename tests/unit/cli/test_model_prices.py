"""Prices in the table of `llm-proxy models`."""

from llm_proxy.cli.operations import prices_text
from llm_proxy.json_access import Json

IMAGES_BY_TOKEN: Json = {
    "input_usd_per_million": "5",
    "output_usd_per_million": None,
    "unit_prices_usd": {"completion_image_token": "0.00003", "prompt_image_token": "0.000008"},
}
UNPRICED: Json = {"input_usd_per_million": None, "output_usd_per_million": None, "unit_prices_usd": {}}


def test_a_model_that_answers_in_images_alone_shows_the_price_of_their_tokens() -> None:
    """Of a million, as other tokens; `?` stays for what nobody states."""
    group: Json = {"deployments": [IMAGES_BY_TOKEN, UNPRICED]}
    assert prices_text(group, "input_usd_per_million") == "5 / ?"
    assert prices_text(group, "output_usd_per_million") == "30 (images) / ?"
