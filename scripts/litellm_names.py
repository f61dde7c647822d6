"""Writes `llm_proxy/dialects/request/litellm_reserved.py`: every request field that LiteLLM reads for itself.

Run it in the sidecar's environment after an upgrade: `.venv-sidecar/bin/python scripts/litellm_names.py`
(`--check` only compares, exit 1 when the file is out of date).
"""

import argparse
import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.constants import INTERNAL_KWARG_PREFIX
from litellm.proxy import litellm_pre_call_utils as before_call
from litellm.proxy.auth import auth_utils
from litellm.types.router import LiteLLM_Params
from litellm.types.utils import all_litellm_params
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsStreaming as Text
from openai.types.embedding_create_params import EmbeddingCreateParams as Embedding

TARGET = Path(__file__).parent.parent / "llm_proxy" / "dialects" / "request" / "litellm_reserved.py"
PACKAGE = Path(inspect.getfile(litellm)).parent
READ_FROM = {
    "main.py": ("kwargs",),
    "router.py": ("kwargs", "request_kwargs"),
    "router_utils/fallback_event_handlers.py": ("kwargs",),
    "caching/caching_handler.py": ("kwargs",),
    "proxy/litellm_pre_call_utils.py": ("data",),
    "proxy/route_llm_request.py": ("data",),
}
# Sampling and thinking parameters that LiteLLM only hands on to the model.
FOR_THE_MODEL = {"thinking", "top_k", "top_n_tokens", "include_server_side_tool_invocations"}
# Fields of LiteLLM's other endpoints (files, speech, assistants, agents); no endpoint of ours reads them.
OTHER_DOORS = {
    "adapter_id",
    "agent",
    "args",
    "config",
    "container_id",
    "contents",
    "document",
    "endpoint",
    "engine",
}
OTHER_DOORS |= {
    "error",
    "exception",
    "file",
    "generationConfig",
    "kwargs",
    "method",
    "model_id",
    "purpose",
    "query",
}
OTHER_DOORS |= {"response_id", "self", "session", "token", "voice"}


def schema() -> set[str]:
    """The fields OpenAI publishes for the three endpoints."""
    return set(Chat.__annotations__) | set(Text.__annotations__) | set(Embedding.__annotations__) | _bases()


def _bases() -> set[str]:
    found: set[str] = set()
    for door in (Chat, Text, Embedding):
        found |= set(inspect.get_annotations(door))
        for base in getattr(door, "__orig_bases__", ()):
            found |= set(inspect.get_annotations(base)) if inspect.isclass(base) else set()
    return found


def signatures() -> set[str]:
    """Parameters of the functions a request's fields become keyword arguments of."""
    router = litellm.Router
    called = [
        litellm.completion,
        litellm.acompletion,
        litellm.embedding,
        litellm.text_completion,
        router.__init__,
    ]
    called += [router.acompletion, router.aembedding, router.atext_completion]
    return {name for one in called for name in inspect.signature(one).parameters}


def _named(node: ast.AST, variables: tuple[str, ...]) -> Iterator[object]:
    def reads(value: ast.AST) -> bool:
        return isinstance(value, ast.Name) and value.id in variables

    match node:
        case ast.Call(
            func=ast.Attribute(value=of, attr="get" | "pop" | "setdefault"), args=[ast.Constant(name), *_]
        ):
            if reads(of):
                yield name
        case ast.Subscript(value=of, slice=ast.Constant(name)) if reads(of):
            yield name
        case ast.Compare(left=ast.Constant(name), comparators=[of]) if reads(of):
            yield name
        case _:
            pass


def read_in_source() -> set[str]:
    """Names its source takes out of a request by hand."""
    found: set[str] = set()
    for path, variables in READ_FROM.items():
        for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
            found |= {name for name in _named(node, variables) if isinstance(name, str)}
    return found


def owned() -> set[str]:
    """Every name that steers LiteLLM when it stands in a body."""
    found = set(all_litellm_params) | set(auth_utils._BANNED_REQUEST_BODY_PARAMS)  # noqa: SLF001 -- its own list
    found |= set(before_call._UNTRUSTED_ROOT_CONTROL_FIELDS)  # noqa: SLF001 -- the same
    found |= set(LiteLLM_Params.model_fields) | signatures() | read_in_source()
    return found - schema() - FOR_THE_MODEL - OTHER_DOORS


def _literal(names: set[str]) -> str:
    lines = textwrap.wrap(" ".join(sorted(names)), 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines)


def module() -> str:
    """The generated module's text."""
    metadata = set(before_call._UNTRUSTED_METADATA_CONTROL_FIELDS)  # noqa: SLF001 -- its own list
    release = version("litellm")
    return f'''"""Request fields LiteLLM {release} reads for itself; generated by `scripts/litellm_names.py`.

Invariant: none of them is a field of OpenAI's published schema; a test compares this file with the wheel.
"""

PREFIX = "{INTERNAL_KWARG_PREFIX}"

OWNED = frozenset(
    """
{_literal(owned())}
    """.split()  # noqa: SIM905 -- some hundred names would be as many lines
)

IN_METADATA = frozenset(
    """
{_literal(metadata)}
    """.split()  # noqa: SIM905 -- the same
)
'''


def main() -> int:
    """Write the module, or compare it."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--check", action="store_true")
    text = module()
    if flags.parse_args().check:
        return int(not TARGET.exists() or TARGET.read_text() != text)
    TARGET.write_text(text)
    print(f"{TARGET}: {len(owned())} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
