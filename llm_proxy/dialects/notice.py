"""Adds a notice of the gateway to the system text of a prompt, in each API's own field.

Pure. Invariants: the conversation itself stays as it was sent; the system text that the caller wrote comes
first; a prompt without one gets one. A provider's prompt cache of the messages does not hit for such a call.
"""

from typing import Any

from llm_proxy.dialects.call import Call
from llm_proxy.json_access import Json, as_object, is_array

_SYSTEM_ROLES = frozenset({"system", "developer"})


def with_notice(call: Call, finding: str) -> Call:
    """Returns the call with a notice of what was found; unchanged where its API has no system text."""
    add = _ADD.get(call.endpoint)
    if add is None:
        return call
    text = f"Notice: {finding}. Do not repeat it: try another way, or stop and say what is in the way."
    return call._replace(body=call.body | add(call.body, text))


def _add_to_chat(body: Json, text: str) -> Json:
    messages: list[Any] = body["messages"]
    first = as_object(messages[0]) if messages else {}
    if first.get("role") not in _SYSTEM_ROLES:
        return {"messages": [{"role": "system", "content": text}, *messages]}
    content: Any = first.get("content")
    joined = [*content, {"type": "text", "text": text}] if is_array(content) else f"{content}\n\n{text}"
    return {"messages": [first | {"content": joined}, *messages[1:]]}


def _add_to_response(body: Json, text: str) -> Json:
    before = body.get("instructions")
    return {"instructions": f"{before}\n\n{text}" if before else text}


def _add_to_message(body: Json, text: str) -> Json:
    before: Any = body.get("system")
    if is_array(before):
        return {"system": [*before, {"type": "text", "text": text}]}
    return {"system": f"{before}\n\n{text}" if before else text}


def _add_to_contents(body: Json, text: str) -> Json:
    given: Any = body.get("systemInstruction")
    instruction = {"parts": [{"text": given}]} if isinstance(given, str) else as_object(given)
    parts: Any = instruction.get("parts") or []
    return {
        "systemInstruction": instruction
        | {"parts": [*(parts if is_array(parts) else [parts]), {"text": text}]}
    }


_ADD = {
    "chat.completions": _add_to_chat,
    "responses": _add_to_response,
    "messages": _add_to_message,
    "generate_content": _add_to_contents,
}
