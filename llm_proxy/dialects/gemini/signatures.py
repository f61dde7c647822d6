"""Thought signatures: what a model thought, as the bytes that clients of Google's API keep and send back.

Pure. Google's clients drop the text of thoughts from the conversation and keep signatures. So the thinking of
any other model, with that model's signatures, is packed into one; Google's own signatures pass as they are.
Invariants: what was sealed here opens unchanged; anything else is Google's. It is neither secret nor
authenticated: the model's provider checks it.
"""

from base64 import b64decode, b64encode
from binascii import Error as InvalidBase64
from collections.abc import Iterable

import orjson

from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.json_access import Json, as_objects

_MARK = b"llm-proxy:thinking:"
IN_CALL_ID = "__thought__"
"""What stands between the id of a call of Gemini's and its signature, in the chats of our sidecar."""


def thinking_blocks(pieces: Iterable[ThinkingPiece]) -> list[Json]:
    """Returns what was thought as blocks: each text with the signature that ended it, where one did."""
    blocks: list[Json] = []
    text = ""
    for piece in pieces:
        if piece.redacted:
            blocks.append({"type": "redacted_thinking", "data": piece.redacted})
            continue
        text += piece.text
        if piece.signature:
            blocks.append({"type": "thinking", "thinking": text, "signature": piece.signature})
            text = ""
    if text:
        blocks.append({"type": "thinking", "thinking": text, "signature": ""})
    return blocks


def seal_blocks(blocks: list[Json]) -> str:
    """Returns the signature that holds blocks of thinking."""
    return b64encode(_MARK + orjson.dumps(blocks)).decode()


def open_blocks(signature: str) -> list[Json] | None:
    """Returns the blocks in a signature; None for one of Google's own, or one that was changed."""
    try:
        raw = b64decode(signature)
    except InvalidBase64:
        return None
    if not raw.startswith(_MARK):
        return None
    try:
        blocks = as_objects(orjson.loads(raw.removeprefix(_MARK)))
    except orjson.JSONDecodeError:
        return None
    return [block for block in blocks if _is_block(block)]


def is_signed(blocks: Iterable[Json]) -> bool:
    """Whether its provider wants any of the blocks back as it made them."""
    return any(block.get("signature") or block["type"] == "redacted_thinking" for block in blocks)


def split_call_id(provider_id: str) -> tuple[str, str]:
    """Returns the id of a call, and Google's signature in it; empty without one."""
    call_id, _, signature = provider_id.partition(IN_CALL_ID)
    return call_id, signature


def join_call_id(call_id: str, signature: str) -> str:
    """Returns the id of a call as our sidecar reads it, with Google's signature."""
    return f"{call_id}{IN_CALL_ID}{signature}" if signature else call_id


def _is_block(block: Json) -> bool:
    if block.get("type") == "redacted_thinking":
        return isinstance(block.get("data"), str)
    thought, signature = block.get("thinking"), block.get("signature")
    return block.get("type") == "thinking" and isinstance(thought, str) and isinstance(signature, str)
