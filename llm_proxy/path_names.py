"""Names in the paths of addresses: any name is one segment, and the same name again behind it.

A browser, a client and a proxy take `.` and `..` out of a path, percent-encoded too, and some decode `%2F`.
"""

import re
from urllib.parse import quote

_ESCAPED = re.compile("~(7E|2F|2E)")


def api_segment(name: str) -> str:
    """Returns a name as a segment of the gateway's paths, for clients that keep `%2E` as it is: httpx."""
    return "%2E" * len(name) if name in (".", "..") else quote(name, safe="")


def page_segment(name: str) -> str:
    """Returns a name as a segment of the console's paths, for browsers: `~2F` is a slash in it."""
    text = name.replace("~", "~7E").replace("/", "~2F")
    return quote(text.replace(".", "~2E") if text in (".", "..") else text, safe="")


def name_in(segment: str) -> str:
    """Returns the name in a segment that `page_segment` made, once it is percent-decoded."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), segment)
