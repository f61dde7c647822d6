"""Prices of images, audio, characters and searches: the most before a call, exactly after it."""

from decimal import Decimal
from typing import Any

import pytest

from llm_proxy.dialects import Call
from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.upstream import Catalog, RoutingInfo, TokenUsage, call_cost
from llm_proxy.upstream.catalog import CurrentCatalog, parse_sidecar_catalog
from llm_proxy.upstream.model_info import parse_model_info
from llm_proxy.upstream.unit_prices import NO_PRICES, image_price, read_unit_prices, stated_prices

GPT_IMAGE: Json = {
    "input_cost_per_token": "0.000005",
    "prices": {
        "input_cost_per_image_token": "0.00001",
        "output_cost_per_image_token": "0.00004",
        "image_prices": {"low/1024x1024": "0.011", "high/1024x1024": "0.167", "high/1536x1024": "0.25"},
    },
}
WHISPER: Json = {"prices": {"input_cost_per_second": "0.0001", "output_cost_per_second": "0.0001"}}
TRANSCRIBE: Json = {
    "input_cost_per_token": "0.0000025",
    "output_cost_per_token": "0.00001",
    "prices": {"input_cost_per_audio_token": "0.000006", "input_cost_per_second": "0.0001"},
}
TTS: Json = {"prices": {"input_cost_per_character": "0.000015"}}
TOKEN_TTS: Json = {
    "input_cost_per_token": "0.0000006",
    "output_cost_per_token": "0.00001",
    "prices": {"output_cost_per_audio_token": "0.000012", "output_cost_per_second": "0.00025"},
}
COHERE: Json = {
    "input_cost_per_token": "0", "output_cost_per_token": "0", "prices": {"input_cost_per_query": "0.002"},
}  # fmt: skip
JINA: Json = {"input_cost_per_token": "0.00000005", "output_cost_per_token": "0"}
FREE: Json = {"input_cost_per_token": "0", "output_cost_per_token": "0"}
UNPRICED: Json = {}
DEAR_TTS: Json = {"prices": {"input_cost_per_character": "0.1"}}
IMAGE_TOKENS: Json = {"prices": {"output_cost_per_image_token": "0.00004"}}


def catalog_of(*deployments: Json) -> Catalog:
    """One group with these deployments."""
    numbered: list[Json] = [{"id": f"d{at}", **one} for at, one in enumerate(deployments)]
    return parse_sidecar_catalog({"groups": [{"name": "m", "deployments": numbered}]})


def call(endpoint: Endpoint, quantities: Quantities = NOTHING, **body: Any) -> Call:
    """A call of the group."""
    return Call(endpoint, "openai", "m", "m", body, quantities=quantities)


IMAGES, SPEECH, RERANK = Quantities(images=2), Quantities(characters=1000), Quantities(search_units=3)
HEARD = Quantities(audio_ms=61_500)
DETAILS = '{"prompt_image_tokens":40,"completion_image_tokens":4160}'


@pytest.mark.parametrize(
    ("deployment", "one", "usage", "nano_usd"),
    [
        # per image by quality and size, where no tokens are stated
        (GPT_IMAGE, call("images.generations", IMAGES, size="1024x1024", quality="high"),
         TokenUsage(0, 0, quantities=IMAGES), 334_000_000),
        (GPT_IMAGE, call("images.generations", IMAGES, size="auto", quality="auto"),
         TokenUsage(0, 0, quantities=IMAGES), None),
        # by its tokens: 10 of text, 40 and 4160 of images
        (GPT_IMAGE, call("images.edits", IMAGES),
         TokenUsage(50, 4160, details=DETAILS, quantities=Quantities(images=1)), 166_850_000),
        (WHISPER, call("audio.transcriptions", HEARD), TokenUsage(0, 0, quantities=HEARD), 6_150_000),
        (TRANSCRIBE, call("audio.transcriptions", HEARD), TokenUsage(0, 0, quantities=HEARD), 6_150_000),
        (TRANSCRIBE, call("audio.transcriptions", HEARD),
         TokenUsage(100, 20, details='{"prompt_audio_tokens":90}', quantities=HEARD), 765_000),
        (TTS, call("audio.speech", SPEECH), TokenUsage(0, 0, quantities=SPEECH), 15_000_000),
        (TOKEN_TTS, call("audio.speech", SPEECH), TokenUsage(250, 0, quantities=SPEECH), None),
        (TOKEN_TTS, call("audio.speech", SPEECH),
         TokenUsage(14, 101, details='{"completion_audio_tokens":101}', quantities=SPEECH), 1_220_400),
        (COHERE, call("rerank", RERANK), TokenUsage(0, 0, quantities=RERANK), 6_000_000),
        (COHERE, call("rerank", RERANK), TokenUsage(500, 0, quantities=RERANK), 6_000_000),
        (JINA, call("rerank", RERANK), TokenUsage(500, 0), 25_000),
        (JINA, call("rerank", RERANK), TokenUsage(500, 0, quantities=RERANK), 25_000),
        (FREE, call("moderations"), TokenUsage(9, 0), 0),
        (FREE, call("rerank", RERANK), TokenUsage(500, 0, quantities=RERANK), None),
        (UNPRICED, call("moderations"), TokenUsage(9, 0), None),
        (UNPRICED, call("rerank", RERANK), TokenUsage(0, 0, quantities=RERANK), None),
        (TTS, call("images.generations", IMAGES), TokenUsage(0, 0, quantities=IMAGES), None),
    ],
)  # fmt: skip
def test_what_an_answer_cost_by_the_catalog(
    deployment: Json, one: Call, usage: TokenUsage, nano_usd: int | None
) -> None:
    """Where no cost is stated: by hand, in nano-dollars; an unknown price is never 0."""
    found = call_cost(usage, RoutingInfo(deployment="d0"), catalog_of(deployment), one)
    assert found == nano_usd


def test_an_unknown_deployment_costs_what_the_groups_dearest_does() -> None:
    """And is unknown where one of them is."""
    usage, one = TokenUsage(0, 0, quantities=SPEECH), call("audio.speech", SPEECH)
    dearer = {"prices": {"input_cost_per_character": "0.00003"}}
    assert call_cost(usage, RoutingInfo(), catalog_of(TTS, dearer), one) == 30_000_000
    assert call_cost(usage, RoutingInfo(deployment="d0"), catalog_of(TTS, dearer), one) == 15_000_000
    assert call_cost(usage, RoutingInfo(), catalog_of(TTS, UNPRICED), one) is None


@pytest.mark.parametrize(
    ("deployments", "one", "tokens", "nano_usd"),
    [
        ([GPT_IMAGE], call("images.generations", IMAGES), (100, 0), 500_500_000),
        ([GPT_IMAGE], call("images.generations", IMAGES, quality="low"), (0, 0), 22_000_000),
        ([GPT_IMAGE], call("images.generations", IMAGES, size="1024x1024"), (0, 0), 334_000_000),
        ([GPT_IMAGE], call("images.generations", IMAGES, size="7x7"), (0, 0), 500_000_000),
        ([WHISPER], call("audio.transcriptions", HEARD), (5, 0), 6_150_000),
        ([TTS], call("audio.speech", SPEECH), (250, 0), 15_000_000),
        ([TTS, DEAR_TTS], call("audio.speech", SPEECH), (0, 0), 10**11),
        ([TOKEN_TTS], call("audio.speech", SPEECH), (250, 0), 25_150_000),
        ([COHERE], call("rerank", RERANK), (500, 0), 6_000_000),
        ([JINA], call("rerank", RERANK), (500, 0), 25_000),
        ([FREE], call("moderations"), (500, 0), 0),
        ([UNPRICED], call("moderations"), (500, 0), None),
        ([COHERE, UNPRICED], call("rerank", RERANK), (500, 0), None),
        ([], call("rerank", RERANK), (500, 0), None),
        ([IMAGE_TOKENS], call("images.edits", Quantities(images=1)), (0, 0), 249_600_000),
    ],
)  # fmt: skip
def test_a_call_is_reserved_at_the_most_it_may_cost(
    deployments: list[Json], one: Call, tokens: tuple[int, int], nano_usd: int | None
) -> None:
    """The dearest size and quality that fit, the dearest deployment; unknown where one price is."""
    served = CurrentCatalog()
    served.update(catalog_of(*deployments))
    assert served.most_of_units(one, *tokens) == nano_usd


def test_nothing_is_known_before_the_first_catalog() -> None:
    """As of any price."""
    assert CurrentCatalog().most_of_units(call("rerank", RERANK), 1, 0) is None


@pytest.mark.parametrize(
    ("body", "price"),
    [
        ({}, 40_000_000_000),
        ({"size": "1024x1024", "quality": "standard"}, 40_000_000_000),
        ({"size": "1024x1792", "quality": "hd"}, 120_000_000_000),
        ({"size": "256x256"}, 16_000_000_000),
        ({"size": "1x1"}, None),
        ({"size": 1024}, 40_000_000_000),
        ({"quality": "auto"}, 40_000_000_000),
    ],
)
def test_an_image_has_the_price_of_its_size_and_quality(body: Json, price: int | None) -> None:
    """Without a quality `standard`, without a size 1024x1024, as LiteLLM reckons; a size for any quality."""
    sized = {"standard/1024x1024": "0.04", "hd/1024x1792": "0.12", "256x256": "0.016"}
    assert image_price(read_unit_prices({"image_prices": sized}), body) == price


def test_a_price_per_pixel_counts_the_pixels_of_the_size() -> None:
    """1024x1024 by default; an unreadable size has no price."""
    prices = read_unit_prices({"input_cost_per_pixel": "0.000000019"})
    assert image_price(prices, {}) == 1024 * 1024 * 19_000
    assert image_price(prices, {"size": "256x512"}) == 256 * 512 * 19_000
    assert image_price(prices, {"size": "wide"}) is None


def test_prices_that_are_none_are_absent() -> None:
    """A negative one, a text, too dear a one; 0 is a price."""
    stated = {"input_cost_per_image": "-1", "input_cost_per_query": "free", "input_cost_per_second": "2000"}
    assert read_unit_prices(stated) == NO_PRICES
    assert read_unit_prices({"input_cost_per_character": 0}).character == 0
    assert read_unit_prices({"input_cost_per_second": "0.1", "output_cost_per_second": "0"}).second == 10**11


def test_known_prices_are_shown_exactly() -> None:
    """In dollars; images by quality and size too, unknown prices not at all."""
    prices = read_unit_prices({"input_cost_per_character": "0.000015", **GPT_IMAGE["prices"]})
    assert stated_prices(prices) == {
        "character": Decimal("0.000015"),
        "prompt_image_token": Decimal("0.00001"),
        "completion_image_token": Decimal("0.00004"),
        "image low/1024x1024": Decimal("0.011"),
        "image high/1024x1024": Decimal("0.167"),
        "image high/1536x1024": Decimal("0.25"),
    }
    assert stated_prices(NO_PRICES) == {}


def test_an_unmodified_litellm_states_prices_in_its_model_info() -> None:
    """Of a configured name; a wildcard's are unknown."""
    info = {"id": "d", "key": "tts-1", "mode": "audio_speech", "input_cost_per_character": 1.5e-05}
    entry = {"model_name": "m", "litellm_params": {"model": "openai/tts-1"}, "model_info": info}
    usage, one = TokenUsage(0, 0, quantities=SPEECH), call("audio.speech", SPEECH)
    assert (
        call_cost(usage, RoutingInfo(deployment="d"), parse_model_info({"data": [entry]}), one) == 15_000_000
    )
    both = [entry, entry | {"model_name": "other"}]
    assert call_cost(usage, RoutingInfo(deployment="d"), parse_model_info({"data": both}), one) is None
