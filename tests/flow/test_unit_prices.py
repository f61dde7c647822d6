"""What reranking, moderations, images and audio cost by listed and own prices, by hand, in both logs."""

import asyncio
import io
import json
import os
import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from odd_provider_answers import wire
from priced_gateway import PricedGateway, run_priced_gateway
from running_stack import script
from sidecars import Json, Provider, run_provider

from llm_proxy.ledger.reconcile import find_discrepancies
from llm_proxy.ledger.usage_store import open_usage
from llm_proxy.quantities import NOTHING, Quantities

RERANK, MODERATIONS, HEAR = "/v1/rerank", "/v1/moderations", "/v1/audio/transcriptions"
DRAW, EDIT, SPEAK = "/v1/images/generations", "/v1/images/edits", "/v1/audio/speech"
PNG = b"\x89PNG\r\n\x1a\n"
SECONDS_OF_WAV = 2.5


def wav() -> bytes:
    """Silence of `SECONDS_OF_WAV`."""
    recording = io.BytesIO()
    with wave.open(recording, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8000)
        written.writeframes(bytes(int(SECONDS_OF_WAV * 2 * 8000)))
    return recording.getvalue()


WAV = wav()
HEARD: Json = {"mode": "audio_transcription"}
DRAWN: Json = {"mode": "image_generation"}
SPOKEN: Json = {"mode": "audio_speech"}


def deployment(group: str, model: str, provider: Provider, **own: object) -> Json:
    """A deployment with these prices of its own, and the list's beside."""
    base = provider.base(model.partition("/")[0])
    params = {"model": model, "api_base": base, "api_key": "sk-scripted"}
    return {"model_name": group, "litellm_params": params, "model_info": {"id": group, **own}}


def config(provider: Provider) -> Json:
    """Listed prices, an operator's, free of charge, and none."""
    return {
        "model_list": [
            deployment("cohere", "cohere/rerank-v3.5", provider),
            deployment("cohere-own", "cohere/rerank-v3.5", provider, input_cost_per_query=0.0125),
            deployment("cohere-mine", "cohere/rerank-of-mine", provider, mode="rerank"),
            deployment(
                "cohere-free", "cohere/rerank-of-mine", provider, mode="rerank",
                input_cost_per_query=0, input_cost_per_token=0, output_cost_per_token=0,
            ),
            deployment("jina", "jina_ai/jina-reranker-v2-base-multilingual", provider),
            deployment("moderation", "openai/omni-moderation-latest", provider),
            deployment("moderation-mine", "openai/moderation-of-mine", provider, mode="moderation"),
            deployment("whisper", "openai/whisper-1", provider),
            deployment("whisper-own", "openai/whisper-1", provider, **HEARD, input_cost_per_second=0.01),
            deployment("whisper-mine", "openai/whisper-of-mine", provider, **HEARD),
            deployment(
                "whisper-by-token", "openai/whisper-of-mine", provider, **HEARD,
                input_cost_per_token=0.001, output_cost_per_token=0.002,
            ),
            deployment("transcriber", "openai/gpt-4o-mini-transcribe", provider),
            deployment("painter", "openai/gpt-image-1", provider),
            deployment("painter-own", "openai/image-of-mine", provider, **DRAWN, output_cost_per_image=0.05),
            deployment("painter-mine", "openai/image-of-mine", provider, **DRAWN),
            deployment("azure-painter", "azure/my-painter", provider, base_model="azure/gpt-image-1"),
            deployment("azure-chat", "azure/my-chat", provider, base_model="azure/gpt-4o"),
            deployment("speaker", "openai/tts-1", provider),
            deployment(
                "speaker-own", "openai/speech-of-mine", provider, **SPOKEN, input_cost_per_character=0.001
            ),
            deployment("speaker-mine", "openai/speech-of-mine", provider, **SPOKEN),
            deployment("speaker-by-token", "openai/gpt-4o-mini-tts", provider),
        ]
    }  # fmt: skip


def ranked(**meta: object) -> Json:
    """Cohere's answer with this `meta`."""
    return {"id": "r", "results": [{"index": 0, "relevance_score": 0.5}], "meta": meta}


def units(billed: int) -> Json:
    """Cohere's answer that bills so many search units."""
    return ranked(billed_units={"search_units": billed})


JINA = {"model": "j", "usage": {"total_tokens": 1234}, "results": [{"index": 0, "relevance_score": 0.5}]}


@dataclass(frozen=True, slots=True)
class Billed:
    """One call, what its provider answers, and what it costs.

    Attributes:
        usd: By hand; None is unknown.
        tokens: Prompt tokens of the record; None where they are not stated.
        form: Fields beside the model and what is drawn, spoken or heard.
        a_character_usd: Instead of `usd`: for each character of what is spoken, spaces too.
        counted: The provider states the tokens of its images.
    """

    group: str
    path: str
    answer: Json | None
    usd: str | None
    quantities: Quantities = NOTHING
    tokens: int | None = None
    form: Mapping[str, object] = field(default_factory=dict[str, object])
    a_character_usd: str | None = None
    counted: bool = True


NINE_SECONDS, STREAM = Quantities(audio_ms=9000), {"stream": "true"}
IMAGE, TWO_IMAGES = Quantities(images=1), Quantities(images=2)
HIGH = {"quality": "high", "size": "1024x1024"}
CASES = {
    "a search unit": Billed("cohere", RERANK, units(1), "0.002", Quantities(search_units=1)),
    "three": Billed("cohere", RERANK, units(3), "0.006", Quantities(search_units=3)),
    "an operator's": Billed("cohere-own", RERANK, units(3), "0.0375", Quantities(search_units=3)),
    "without a price": Billed("cohere-mine", RERANK, units(3), None, Quantities(search_units=3)),
    "for nothing": Billed("cohere-free", RERANK, units(3), "0", Quantities(search_units=3)),
    "estimated": Billed("cohere", RERANK, ranked(), "0.002", Quantities(search_units=1)),
    "by tokens": Billed("jina", RERANK, JINA, "0.0000617", tokens=1234),  # 1234 x 5e-08
    "a free moderation": Billed("moderation", MODERATIONS, None, "0"),
    "a moderation without a price": Billed("moderation-mine", MODERATIONS, None, None),
    "seconds": Billed("whisper", HEAR, None, "0.0009", NINE_SECONDS),
    "seconds of verbose JSON": Billed("whisper", HEAR, None, "0.0009", NINE_SECONDS,
                                      form={"response_format": "verbose_json"}),
    "seconds that are not stated": Billed("whisper", HEAR, None, "0.00025", Quantities(audio_ms=2500),
                                         form={"response_format": "text"}),
    "an operator's seconds": Billed("whisper-own", HEAR, None, "0.09", NINE_SECONDS),
    "seconds without a price": Billed("whisper-mine", HEAR, None, None, NINE_SECONDS),
    "seconds at a price of tokens": Billed("whisper-by-token", HEAR, None, None, NINE_SECONDS),
    # 17 x 1.25e-06 + 23 x 5e-06
    "heard tokens": Billed("transcriber", HEAR, None, "0.00013625", tokens=17),
    "heard tokens of a stream": Billed("transcriber", HEAR, None, "0.00013625", tokens=17, form=STREAM),
    # 12 x 5e-06 + 5 x 1e-05 + 23 x 4e-05
    "drawn tokens": Billed("painter", DRAW, None, "0.00103", TWO_IMAGES, 17, {"n": 2}),
    "drawn tokens of a stream": Billed("painter", DRAW, None, "0.00103", IMAGE, 17, {"stream": True}),
    "an image of a quality": Billed("painter", DRAW, None, "0.167", IMAGE, form=HIGH, counted=False),
    "an image of any": Billed("painter", DRAW, None, None, IMAGE, counted=False),
    "an edited image": Billed("painter", EDIT, None, "0.00103", IMAGE, 17),
    "an edit of a quality": Billed("painter", EDIT, None, "0.167", IMAGE, form=HIGH, counted=False),
    "an operator's edit": Billed("painter-own", EDIT, None, "0.05", IMAGE),
    "an operator's images": Billed("painter-own", DRAW, None, "0.1", TWO_IMAGES, form={"n": 2}),
    "an image without a price": Billed("painter-mine", DRAW, None, None, IMAGE),
    "characters": Billed("speaker", SPEAK, None, None, a_character_usd="0.000015"),
    "an operator's characters": Billed("speaker-own", SPEAK, None, None, a_character_usd="0.001"),
    "characters without a price": Billed("speaker-mine", SPEAK, None, None),
    "speech without its tokens": Billed("speaker-by-token", SPEAK, None, None),
    # 17 x 6e-07 + 23 x 1.2e-05
    "spoken tokens": Billed("speaker-by-token", SPEAK, None, "0.0002862", tokens=17,
                            form={"stream_format": "sse"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def priced(
    postgres_url: str, limits_redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PricedGateway]:
    """The whole stack, with prices."""
    folder = Path(tmp_path_factory.mktemp("unit-prices"))
    stores = {"postgres_url": postgres_url, "limits_redis_url": limits_redis_url}
    with (
        run_provider(folder) as provider,
        run_priced_gateway(provider, config(provider), folder, **stores) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def stories(priced: PricedGateway) -> dict[str, Json]:
    """Every case played once: what the gateway and LiteLLM recorded of it."""

    async def play(one: Billed) -> Json:
        text = script(do="ok", image_tokens=5, counted=one.counted)
        if one.answer is not None:
            text = script(do="raw", raw=[wire(json.dumps(one.answer))])
        body: Json = {"model": one.group}
        if one.path == HEAR:
            body |= {"prompt": text, **one.form}
            return await priced.logged(await priced.post(one.path, body, ("file", WAV)))
        if one.path == EDIT:
            body |= {"prompt": text, **one.form}
            return await priced.logged(await priced.post(one.path, body, ("image", PNG)))
        if one.path == DRAW:
            return await priced.logged(await priced.post(one.path, {**body, "prompt": text, **one.form}))
        if one.path == SPEAK:
            body |= {"input": text, "voice": "alloy", **one.form}
            return {"spoken": text} | await priced.logged(await priced.post(one.path, body))
        body |= {"query": text, "documents": ["a", "b"]} if one.path == RERANK else {"input": text}
        return await priced.logged(await priced.post(one.path, body))

    async def every() -> list[Json]:
        return await asyncio.gather(*map(play, CASES.values()))

    return dict(zip(CASES, asyncio.run(every()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_call_costs_what_its_provider_bills(stories: dict[str, Json], name: str) -> None:
    """In the record, with what it used; LiteLLM's own log has the same figure, or none."""
    billed, story = CASES[name], stories[name]
    expected, quantities = None if billed.usd is None else Decimal(billed.usd), billed.quantities
    if "spoken" in story:
        quantities = Quantities(characters=len(story["spoken"]))
    if billed.a_character_usd is not None:
        expected = len(story["spoken"]) * Decimal(billed.a_character_usd)
    cost = None if story["cost_usd"] is None else Decimal(str(story["cost_usd"]))
    assert cost == expected
    [logged] = story["model_calls"]
    assert logged["cost_usd"] in {None, story["cost_usd"]}
    used = Quantities(*(story[unit] or 0 for unit in Quantities._fields))
    assert used == quantities
    if billed.tokens is not None:
        assert story["prompt_tokens"] == billed.tokens
        assert logged["prompt_tokens"] in {None, billed.tokens}


async def test_a_base_model_s_prices_are_those_of_a_deployment(priced: PricedGateway) -> None:
    """Azure's have names of their own; LiteLLM prices them by `base_model`, and so they are reserved."""
    listed = {one["id"]: one["deployments"][0] for one in (await priced.ask("/admin/models"))["data"]}
    painter, chat = listed["azure-painter"], listed["azure-chat"]
    assert painter["unit_prices_usd"]["completion_image_token"] == "0.00004"
    assert "image high/1024x1024" in painter["unit_prices_usd"]
    assert (chat["input_usd_per_million"], chat["output_usd_per_million"]) == ("2.5", "10")


async def test_the_two_logs_agree(priced: PricedGateway, stories: dict[str, Json]) -> None:
    """Of all these calls, tokens, units and money."""
    since = min(datetime.fromisoformat(one["started_at"]) for one in stories.values())
    async with open_usage(priced.dsn) as usage:
        assert await find_discrepancies(usage.pool, since, datetime.now(UTC), 100) == []


async def test_what_was_used_is_in_the_report_and_what_has_no_price_is_counted(
    priced: PricedGateway, stories: dict[str, Json]
) -> None:
    """By model; the sums of the roll-ups."""
    assert stories
    rows = {row["model"]: row for row in (await priced.ask("/v1/usage", group_by="model"))["data"]}
    assert (rows["cohere"]["search_units"], rows["cohere"]["cost_usd"]) == (5, 0.01)
    assert {name for name, row in rows.items() if row["unpriced_requests"]} == {
        "cohere-mine",
        "moderation-mine",
        "whisper-mine",
        "whisper-by-token",
        "painter",
        "painter-mine",
        "speaker-mine",
        "speaker-by-token",
    }
    assert (rows["whisper"]["audio_seconds"], rows["whisper"]["cost_usd"]) == (20.5, 0.00205)


def test_the_commands_show_what_was_used(priced: PricedGateway, stories: dict[str, Json]) -> None:
    """A column for each unit of the table of sums; in the list of requests in place of tokens."""
    assert stories

    def printed(*words: str) -> str:
        argv = [sys.executable, "-m", "llm_proxy", *words]
        environment = {"PATH": os.environ["PATH"], "DATABASE_URL": priced.dsn, "COLUMNS": "250"}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, cwd="/")
        return done.stdout

    heading = " ".join(printed("usage", "--by", "model").splitlines()[:4]).split()
    for title in ("images", "audio", "characters", "searches"):
        assert title in heading
    listed = printed("requests", "--limit", "100")
    for used in ("3 search units", "9 audio seconds", "2.5 audio seconds", "2 images"):
        assert used in listed
