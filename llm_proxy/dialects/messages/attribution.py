"""Who is named by `metadata.user_id`: a user of ours, or the user and session that Claude Code puts there.

Source: Claude Code 2.1 (JSON in a string), and before (`user_<hash>_account_<id>_session_<id>`).
"""

import re

import orjson

from llm_proxy.dialects.request.build_call import MAX_ID_CHARS
from llm_proxy.identity import NO_ATTRIBUTION, Attribution
from llm_proxy.json_access import Json, as_object

_EARLIER = re.compile(
    r"user_(?P<device_id>[0-9a-f]+)_account_(?P<account_uuid>[\w-]*?)_session_(?P<session_id>[\w-]+)"
)


def attribution_of(metadata: Json) -> Attribution:
    """Returns what a body's `metadata` attributes the call to.

    Claude Code's user is an account or a device, which no operator bound a key to: it holds where neither the
    key nor a header names a user.
    """
    user_id = metadata.get("user_id")
    if not user_id:
        return NO_ATTRIBUTION
    named = _fields(user_id)
    if named is None:
        return Attribution(user=_id(user_id))
    user = _id(named.get("account_uuid")) or _id(named.get("device_id"))
    return Attribution(presumed_user=user, session=_id(named.get("session_id")))


def _fields(user_id: str) -> Json | None:
    """The fields that Claude Code wrote into a user id; None where it is another's."""
    if user_id.startswith("{"):
        try:
            return as_object(orjson.loads(user_id)) or None
        except orjson.JSONDecodeError:
            return None
    earlier = _EARLIER.fullmatch(user_id)
    return None if earlier is None else dict(earlier.groupdict())


def _id(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(sign for sign in value if sign.isprintable())[:MAX_ID_CHARS] or None
