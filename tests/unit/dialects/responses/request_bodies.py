"""Responses requests for tests of their translation, and what a chat gets of them."""

from typing import Any

from llm_proxy.dialects.responses.reasoning import ReasoningSeal
from llm_proxy.dialects.responses.request import ChatTranslation, translate
from llm_proxy.dialects.responses.schema import check_body
from llm_proxy.dialects.translation.carried import Carried, carried_by
from llm_proxy.sealing import Sealer, SealingKey

Json = dict[str, Any]
SEAL = ReasoningSeal(Sealer([SealingKey("k1", "s" * 32)]))
CHAT_SERVER, CLAUDE, DEEPSEEK = Carried(), carried_by({"anthropic"}), carried_by({"deepseek"})
OPENAI = carried_by({"openai"})
WEATHER: Json = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


def sent(carried: Carried = CHAT_SERVER, **body: Any) -> ChatTranslation:
    return translate(check_body({"model": "m", "input": "hi", **body}, 4096), carried, SEAL)


def messages(*items: Json, carried: Carried = CHAT_SERVER, **body: Any) -> list[Json]:
    found: list[Json] = sent(carried, input=list(items), **body).body["messages"]
    return found


def user(*parts: Json) -> Json:
    return {"type": "message", "role": "user", "content": list(parts)}


def call(call_id: str, name: str = "weather", arguments: str = "{}", **more: Any) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def output(call_id: str, value: Any = "sunny") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def chat_call(call_id: str, name: str = "weather", arguments: str = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


TEXT: Json = {"type": "input_text", "text": "hello"}
