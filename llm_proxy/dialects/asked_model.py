"""The model that a request names which became no call, for its record.

Pure. Invariants: only the record of a rejected request reads it, so a body is read again only where it is
stored; nothing is raised.
"""

from urllib.parse import unquote

from llm_proxy.dialects.request import parse_object
from llm_proxy.errors import BadRequest

_MAX_BYTES = 4 * 2**20
_MAX_DEPTH = 128


def asked_model(in_path: str | None, body: bytes) -> str | None:
    """Returns the model's name in the path (still encoded) or, without one, in the body; None for none.

    A body that is no JSON object, or larger than `_MAX_BYTES`, names none.
    """
    if in_path is not None:
        return unquote(in_path)
    if len(body) > _MAX_BYTES:
        return None
    try:
        model = parse_object(body, _MAX_DEPTH).get("model")
    except BadRequest:
        return None
    return model if isinstance(model, str) else None
