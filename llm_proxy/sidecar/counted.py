"""Tokens LiteLLM counted itself, marked: it does so where a server states none, and does not say it.

Invariants: the mark is a field of the usage, `llmp_counted`, for the gateway, which takes it out; a usage the
provider stated never has it; nothing is counted twice to know.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llm_proxy.json_access import Json
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.shapes import mapping

MARK = "llmp_counted"
STREAMS = "litellm.litellm_core_utils.streaming_chunk_builder_utils"
OLLAMA = "litellm.llms.ollama.chat.transformation"
STATED = "_llmp_usage_stated"
OF_A_STREAM = ("prompt_tokens", "completion_tokens")
OF_OLLAMA = ("prompt_eval_count", "eval_count")


def apply() -> None:
    """Patch the two places that count; before the first call."""
    _mark_streams(import_module(STREAMS).ChunkProcessor)
    _mark_whole_answers(import_module(OLLAMA).OllamaChatConfig)


def _mark_streams(processor: Theirs) -> None:
    """Every provider's stream ends here; what its frames stated is kept on the way to the sum."""
    sum_up: Callable[..., Any] = processor._calculate_usage_per_chunk  # noqa: SLF001 -- it alone knows
    calculate: Callable[..., Any] = processor.calculate_usage

    def sum_up_and_keep(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        stated = sum_up(self, *words, **options)
        setattr(self, STATED, stated)
        return stated

    def calculate_and_mark(self: Theirs, *words: Theirs, **options: Theirs) -> Theirs:
        usage = calculate(self, *words, **options)
        stated = mapping(getattr(self, STATED, None))
        _mark(usage, stated, OF_A_STREAM)
        if not hasattr(usage, MARK):  # LiteLLM counts what was thought, and takes all the rest for text
            usage.completion_tokens_details = stated.get("completion_tokens_details")
        return usage

    processor._calculate_usage_per_chunk = sum_up_and_keep  # noqa: SLF001 -- the same
    processor.calculate_usage = calculate_and_mark


def _mark_whole_answers(config: Theirs) -> None:
    """Of the providers whose whole answers LiteLLM counts, the one that usually states its tokens."""
    transform: Callable[..., Any] = config.transform_response

    def transform_and_mark(
        self: Theirs, model: str, raw_response: Theirs, *words: Theirs, **options: Theirs
    ) -> Theirs:
        answer = transform(self, model, raw_response, *words, **options)
        _mark(answer.usage, mapping(raw_response.json()), OF_OLLAMA)
        return answer

    config.transform_response = transform_and_mark


def _mark(usage: Theirs, stated: Json, names: tuple[str, str]) -> None:
    if any(stated.get(name) is None for name in names):
        setattr(usage, MARK, True)


PATCH = Patch(
    name="counted",
    install=apply,
    reason=(
        "Tokens LiteLLM counted itself look like the provider's own statement; to a stream's stated tokens "
        "it adds parts of its own count, by which audio is billed a second time as text."
    ),
    since="1.106.2",
    report="To file: `mark locally counted usage in the response`.",
    until="The response says who counted.",
    tests=("tests/stages/test_sidecar_fidelity.py::test_counts_of_litellm_s_own_are_marked",),
)
