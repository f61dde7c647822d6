"""Streams that LiteLLM translates into OpenAI's words: what its translation leaves torn is repaired.

Invariants: a finish reason that means a failure ends the stream as broken; two tool calls of one choice
never share an index; half a surrogate pair never leaves; a frame of OpenAI's own passes untouched.
"""

from llm_proxy.json_access import Json
from llm_proxy.sidecar import broken_streams, openai_wire, seams
from llm_proxy.sidecar.patch import Patch
from llm_proxy.sidecar.seams import Theirs
from llm_proxy.sidecar.stated_failures import is_failed

REPAIR = "_llmp_repair"


def apply() -> None:
    """Patch the stream wrapper, after the lane of OpenAI's frames; before the first call."""
    wrapper = seams.stream_wrapper()
    step = wrapper.__anext__

    async def step_and_repair(self: Theirs) -> Theirs:
        chunk = await step(self)
        if not isinstance(chunk, bytes):
            if is_failed(self.received_finish_reason):
                self._log_stream_failure_and_raise(broken_streams.cut(self))
            _repair(self.__dict__, chunk)
        return chunk

    wrapper.__anext__ = step_and_repair


def _repair(state: Json, chunk: Theirs) -> None:
    for choice in _listed(chunk, "choices"):
        delta: Theirs = getattr(choice, "delta", None)
        if delta is None:
            continue
        repair = state.get(REPAIR) or state.setdefault(REPAIR, openai_wire.StreamRepair())
        calls = _listed(delta, "tool_calls")
        texts: Json = {name: getattr(delta, name, None) for name in openai_wire.TEXTS}
        plain = texts | {"tool_calls": [_plain(call) for call in calls]}
        repair.delta(choice.index or 0, plain, last=bool(choice.finish_reason))
        for name, text in texts.items():
            if plain[name] != text:
                setattr(delta, name, plain[name])
        for call, repaired in zip(calls, plain["tool_calls"], strict=True):
            call.index, call.id, call.type = repaired["index"], repaired["id"], repaired["type"]
            if call.function is not None:
                call.function.arguments = repaired["function"]["arguments"]


def _listed(owner: Theirs, name: str) -> list[Theirs]:
    return list(getattr(owner, name, None) or ())


def _plain(call: Theirs) -> Json:
    function = call.function
    words = {"name": function.name, "arguments": function.arguments} if function is not None else {}
    return {"index": call.index, "id": call.id, "type": call.type, "function": words}


PATCH = Patch(
    name="translated_streams",
    install=apply,
    reason=(
        "LiteLLM's translation of other providers' streams passes failures as finish reasons, gives two "
        "tool calls one index and cuts surrogate pairs in two."
    ),
    since="1.106.2",
    report=(
        "To file: `ollama_chat: parallel tool calls in separate frames share index 0`; `finish_reason "
        "error is passed on as stop`."
    ),
    until="Tool calls of one choice have indices of their own, and failures end a stream as errors.",
    tests=(
        "tests/stages/test_sidecar_odd_streams.py::test_two_tools_of_ollama_are_two",
        "tests/stages/test_sidecar_odd_streams.py::test_torn_characters_are_joined_or_replaced",
    ),
)
