"""Fields of an answer that OpenAI's schema requires and LiteLLM leaves out when they are null.

Pure. Invariants: what a provider said is never changed; frames of a stream need none of these.
Source: OpenAI's OpenAPI document, CreateChatCompletionResponse and CreateCompletionResponse.
"""

from llm_proxy.json_access import Json, as_object, as_objects


def restore(document: Json) -> bool:
    """Put the missing nulls back; whether any was missing."""
    kind, missing = document.get("object"), False
    if kind not in ("chat.completion", "text_completion"):
        return False
    for choice in as_objects(document.get("choices")):
        if "logprobs" not in choice:
            choice["logprobs"], missing = None, True
        message = as_object(choice.get("message"))
        for name in ("content", "refusal") if message else ():
            if name not in message:
                message[name], missing = None, True
    return missing
