"""Cleans a provider's error message for callers, records and logs.

Pure. Invariants of `clean_message`: one line of at most `MAX_CHARS` characters; no key, URL, host, path,
address, account or request id, no wrapping or traceback of LiteLLM's; idempotent; numbers of up to ten
digits stay. `without_request_text`: nothing of 24 characters or more that also occurs in the request is
left, and its work is linear.
"""

import re
import sys
import unicodedata

MAX_CHARS = 600
MAX_COMPARED_BYTES = 256 * 2**10
"""A longer request is not searched for what a message repeats: that would delay other calls."""
REMOVED = "[removed]"
_ROUNDS = 4
_MAX_ESCAPE_LEVELS = 16  # each pass over 2,000 characters takes 0.1 ms
_MAX_RAW_CHARS = 2_000
_MIN_SECRET_CHARS, _MIN_PART_CHARS = 16, 10
_MIN_ECHO_CHARS, _BLOCK_BYTES = 24, 8

_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\+[^\s\"'`<>]+")
_UNICODE = re.compile(r"\\u([0-9a-fA-F]{4})")
_ESCAPES = re.compile(r"\\(?:([nrt])|([\"'\\/]))")
_QUOTING = re.compile(r"\\+(?:[nrtbf]|u00[01][0-9a-f])?")
_QUOTING_BYTES = re.compile(_QUOTING.pattern.encode())
_CHATTER = re.compile(
    r"traceback \(most recent|(?:received|available) model group|litellm (?:retried|max retries)|"
    r"no fallback model group|error doing the fallback|deployment info|original exception|stack trace|"
    r"no deployments available|file an issue|for further information visit|cooldown_list|"
    r"(?:either provide one, or set|enable|\bset) ['\"`]?litellm\.modify_params|"
    r"to drop (?:these|it|unsupported)|if you want to use these params|\bFile \"[^\"]*\", line \d",
    re.IGNORECASE,
)
"""Where LiteLLM's own text begins: nothing after it is the provider's."""

_WRAPPING = re.compile(
    r"^(?:(?:litellm\.)?(?:[A-Za-z]+\.)*[A-Za-z]*(?:Error|Exception|Timeout)\s*(?::|-(?=\s))\s*|"
    r"Error code:? \d{3}\s*[-:]\s*|b(?=['\"]))+"
)
_PYDANTIC = re.compile(r"\s*\[type=\w+, input_value=.*?, input_type=\w+\]")
_REPRS = (
    re.compile(
        r"<(?:class|function|bound method|Response|module|coroutine)\b[^<>]*>|<[\w.]+ object at 0x[0-9a-f]+>"
    ),
    re.compile(r"\b0x[0-9a-fA-F]{6,}\b"),
    re.compile(r"\{(?=[^{}]*['\"])[^{}:]*:[^{}]*\}"),
)
_HOSTS = (
    "com|net|org|io|ai|dev|app|cloud|tech|site|online|biz|gov|edu|xyz|"
    "eu|uk|cn|ru|us|de|fr|jp|br|ca|au|nl|ch|kr|sg|hk|tw|"
    "local|localdomain|localhost|internal|"
    "intranet|lan|corp|svc|arpa|example|invalid"
)
_KEY_NAMES = (
    r"(?:(?:[a-z]+-)?api[-_ ]?key|secret(?:[-_ ]\w+)?|password|passwd|pwd|credentials?|signature|sig|"
    r"(?:access|auth|bearer|refresh|session|id)?[-_ ]?token|(?:proxy-)?authorization)"
)
_KEY_PREFIXES = (
    "sk|pk|rk|gsk|csk|xai|nvapi|hf|r8|tgp|pplx|ghp|gho|ghs|ghu|glpat|xox[abprs]|lin|dop|sess|api|key"
)
_ID_PREFIXES = (
    "org|proj|project|user|acct|account|team|tenant|ws|wks|wrkspc|req|request|trace|cus|sub|gen|chatcmpl|"
    "cmpl|apikey"
)
_OWNERS = (
    "organi[sz]ation|project|account|subscription|tenant|workspace|team|user|customer|resource|request|trace|"
    "correlation|session|deployment"
)
_IPV6 = (
    "(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{1,4}|(?:[0-9a-f]{1,4}:){1,6}:(?:[0-9a-f]{1,4}:?)*|::(?:[0-9a-f]{1,4}:?)+"
)
_BEFORE_A_HOST = r"(?<=\bto )|(?<=\bhost )|(?<=\bat )|(?<=\bfrom )|(?<=\bserver )|(?<=host=)|(?<=host=['\"])"
_MODELS = (
    r"gpt-?\d|gpt-oss|o\d\b|claude-|gemini-|text-embedding-|llama-?\d|qwen-?\d|grok-\d|deepseek-|command-r|"
    r"mistral-(?:large|medium|small|\d+b)"
)
_MACHINE = rf"(?!{_MODELS})[a-z](?=[\w-]*(?:\d|-\w|\.\w))[\w-]*(?:\.[\w-]+)*(?::\d{{1,5}})?(?![\w/])"
"""A name with a digit, a hyphen or a dot that is no model's."""
_PRIVATE = (
    "prod|production|stage|staging|test|priv|private|home|lab|node|consul|cluster|k8s|docker|intra|office"
)
_PLACES = (
    "projects|accounts|organizations|subscriptions|tenants|workspaces|teams|resourceGroups|users|folders"
)
_PLACEHOLDERS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"-----BEGIN [A-Z ]{1,40}-----(?:(?!-----).)*(?:-----END [A-Z ]{1,40}-----)?",
        r"\b[a-z][a-z0-9+.-]{1,20}%3a%2f%2f[^\s<>\"'`)\]]*",
        r"\b[a-z][a-z0-9+.-]{1,20}://[^\s<>\"'`)\]]*[^\s<>\"'`)\].,;:!?]",
        r"//[\w-]+\.[^\s\"'`)\]]*[^\s\"'`)\].,;:!?]",
        r"(?<![\w.+%-])[\w.+%-]{1,64}@[a-z0-9-]+(?:\.[a-z0-9-]+)+",
        r"\barn:aws[\w-]*:[^\s\"'`),]+",
        r"(?<=\bbearer )(?=\S*[\d_-])[\w.~+/=*-]{6,}",
        r"(?<=\bbasic )(?=\S*[\d=])[\w+/=-]{8,}",
        r"[^\s*\"'`]{0,80}\*{3,}[^\s\"'`]{0,80}",
        rf"(?<![A-Za-z0-9])(?:{_KEY_PREFIXES})[-_](?=[\w-]*\d)[\w-]{{5,}}",
        r"(?<![A-Za-z0-9])sk-[\w-]{3,}",
        r"\b(?:AKIA|ASIA|AIza|ya29\.|eyJ)[\w.-]{8,}",
        rf"\b(?:{_ID_PREFIXES})[-_](?=[a-z_-]*\d|[a-z]*(?-i:[A-Z]))[\w-]{{6,}}",
        rf"\b(?:{_PLACES})/[^\s\"'`),;]+",
        r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b",
        rf"\b(?:{_OWNERS})[ _-]?(?:id|number)\b[\"']?\s*[:=#]?\s*[\"'`(\[]?(?=[\w-]*\d)[\w-]{{4,}}",
        r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?:/\d+)?(?![\w.]*\w)",
        rf"(?<![\w:.])\[?(?:{_IPV6})\]?(?::\d{{1,5}})?(?![\w:])",
        rf"(?<![\w@.-])(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?\.)+(?:{_HOSTS})(?::\d{{1,5}})?(?:/[^\s\"'`)\]]*)?(?![\w-])",
        r"\blocalhost(?::\d{1,5})?(?:/[^\s\"'`)\]]*)?",
        r"(?<![\w.])[a-z][a-z0-9]*(?:[.-]+[a-z0-9]+)+:\d{2,5}(?![\w.])",
        rf"(?:{_BEFORE_A_HOST})[a-z][\w-]*:\d{{2,5}}(?![\w.])",
        r"(?<=host=)['\"]?[\w.-]+['\"]?",
        rf"(?<![\w@.-])(?=[\w.]*-)(?:[a-z0-9_-]+\.)+(?:{_PRIVATE})(?::\d{{1,5}})?(?![\w-])",
        r"(?<![\w.\-'\"`])(?:[a-z0-9]+-)*(?:gpu|node|host|server|srv|worker|pod|vm)-?\d+(?:-[a-z0-9]+)*(?::\d{1,5})?(?![\w-])",
        rf"(?:(?<=\bhost )|(?<=\bserver )|(?<=\bnode )|(?<=\bbackend )|(?<=\bpeer ))['\"`]?{_MACHINE}['\"`]?",
        r"(?<![\w/<#.\])])~?/(?=[\w.@%+~-]*[a-z])[\w.@%+~-]+(?:/[\w.@%+~-]*)*",
        r"(?<![\w./-])[\w./-]{1,200}\.(?:py|pyc|js|ts|go|rs|cc|cpp|java|so|yaml|yml|toml|env|pem|gguf)\b(?::\d+)?",
        r"(?<![\w.])\d{11,16}(?![\w.])",
        r"\blitellm(?:[._]\w+)*\b",
    )
)
_CONNECTING = re.compile(
    r"connect|connrefused|unreachable|\breach(?:ing)?\b|resol(?:v|ution)|getaddrinfo|enotfound|lookup|\bdial|\bdns\b|"
    r"socket|handshake|refused|proxy|upstream|forward|\brout(?:e|ed|ing)\b|time[d -]*out",
    re.IGNORECASE,
)
"""Words of messages about a network: the names in these are names of machines."""
_PEER = re.compile(
    rf"(?:{_BEFORE_A_HOST}|(?<=\breach )|(?<=\breaching )|(?<=\bresolve )|(?<=\bresolving )|"
    rf"(?<=\blookup )|(?<=\bdial )|(?<=\bwith )|(?<=\bvia )|(?<=\bfor )|(?<=\benotfound ))"
    rf"['\"`]?{_MACHINE}['\"`]?",
    re.IGNORECASE,
)
_NAMED_KEY = re.compile(
    rf"\b({_KEY_NAMES}\b[\"']?\s*(?:provided|used|supplied|sent)?\s*[:=]\s*[\"'`]?)"
    r"(?!\d[\d.,]*(?:[\s\"'`)]|$))(?!\[removed)(?:(?:bearer|basic) )?[^\s\"'`,;)]+",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[A-Za-z0-9_+/=-]{16,}")
_SEPARATORS = re.compile(r"[-_/+=]+")
_WORD = re.compile(r"(?:[A-Z]?[a-z]{3,20}|[A-Z]{2,20}(?![a-z])|[a-z]{1,2}|[A-Z])")
_REPEATED_REMOVED = re.compile(rf"{re.escape(REMOVED)}(?:[\s,;:.'\"`]*{re.escape(REMOVED)})+")
_EMPTY = re.compile(r"\(\s*\)|[\"'`]{2,}")


def clean_message(text: str) -> str:
    """Returns the message without what must not leave; empty when nothing readable is left."""
    line = _without_escapes(text[:_MAX_RAW_CHARS])
    connecting = bool(_CONNECTING.search(line))
    for _ in range(_ROUNDS):
        cleaned = _without_secrets(_unwrap(line))
        cleaned = _tidy(_PEER.sub(REMOVED, cleaned) if connecting else cleaned)
        cleaned = _shorten(_without_escapes(cleaned))
        if cleaned == line:
            break
        line = cleaned
    return line if re.search(r"[^\W\d_]{2}", line.replace(REMOVED, "")) else ""


def without_request_text(text: str, request: bytes) -> str | None:
    """Returns the message without every part of 24 characters or more that the request also has.

    Both are compared without white space, quotes, escapes and case: a provider's quoting hides nothing.
    The work grows with the request's length alone; a request over `MAX_COMPARED_BYTES` is not read.

    Args:
        text: The message as the provider sent it, before it is cleaned.
        request: The request's body, as JSON.

    Returns:
        The rest of the message; None when the request is too large to compare.
    """
    if len(request) > MAX_COMPARED_BYTES:
        return None
    line = _one_line(text[:_MAX_RAW_CHARS])
    message, offsets = _comparable_with_offsets(line)
    for start, end in reversed(_shared_spans(message, _comparable(request))):
        if offsets[end - 1] + 1 - offsets[start] >= _MIN_ECHO_CHARS:
            line = f"{line[: offsets[start]]} {REMOVED} {line[offsets[end - 1] + 1 :]}"
    return line


def _shared_spans(message: bytes, body: bytes) -> list[tuple[int, int]]:
    """The spans of the message that consist of pieces of two blocks or more which the body also has."""
    length = 2 * _BLOCK_BYTES
    shared = _pieces(message, length) & _candidates(body, _pieces(message, _BLOCK_BYTES))
    spans: list[tuple[int, int]] = []
    for at in range(len(message) - length + 1):
        if message[at : at + length] in shared:
            start = spans.pop()[0] if spans and at <= spans[-1][1] else at
            spans.append((start, at + length))
    return spans


def _candidates(body: bytes, blocks: set[bytes]) -> set[bytes]:
    """Returns the body's pieces of two blocks around each of its aligned blocks that is one of `blocks`.

    A piece of two blocks contains an aligned one wherever it begins, so only every eighth byte is read.
    """
    numbers = {int.from_bytes(block, sys.byteorder) for block in blocks}
    aligned = memoryview(body)[: len(body) - len(body) % _BLOCK_BYTES].cast("Q")
    hits = [at * _BLOCK_BYTES for at, number in enumerate(aligned) if number in numbers]
    around = {body[max(0, at - _BLOCK_BYTES) : at + 2 * _BLOCK_BYTES] for at in hits}
    return {piece for window in around for piece in _pieces(window, 2 * _BLOCK_BYTES)}


def _pieces(text: bytes, length: int) -> set[bytes]:
    return {text[at : at + length] for at in range(len(text) - length + 1)}


def _comparable(body: bytes) -> bytes:
    return _QUOTING_BYTES.sub(b"", body).lower().translate(None, b" \t\r\n\"'`")


def _comparable_with_offsets(line: str) -> tuple[bytes, list[int]]:
    """The same of a line, and for each byte the offset of its character."""
    out, offsets = bytearray(), list[int]()
    quoting = {at for found in _QUOTING.finditer(line) for at in range(*found.span())}
    for at, character in enumerate(line):
        if at in quoting or character in " \"'`":
            continue
        raw = character.encode("utf-8", "replace").lower()
        out += raw
        offsets += [at] * len(raw)
    return bytes(out), offsets


def _without_escapes(text: str) -> str:
    """Returns one line without escapes, also those that its changes make; empty for too many in one."""
    for _ in range(_MAX_ESCAPE_LEVELS):
        line = _one_line(_ESCAPES.sub(_unescape, _WINDOWS_PATH.sub(REMOVED, text)))
        if line == text:
            return line
        text = line
    return ""


def _one_line(text: str) -> str:
    """Removes control and invisible characters, and makes white space single."""
    spaced = (" " if char.isspace() else char for char in _UNICODE.sub(_character, text))
    return " ".join("".join(char for char in spaced if unicodedata.category(char)[0] != "C").split())


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _unescape(found: re.Match[str]) -> str:
    return " " if found[1] else found[2]


def _unwrap(line: str) -> str:
    line = _WRAPPING.sub("", line)
    chatter = _CHATTER.search(line)
    return line[: chatter.start()] if chatter else line


def _without_secrets(line: str) -> str:
    line = _PYDANTIC.sub("", line)
    for pattern in _REPRS:
        line = pattern.sub(f" {REMOVED}", line)
    line = _NAMED_KEY.sub(rf"\1{REMOVED}", line)
    for pattern in _PLACEHOLDERS:
        line = pattern.sub(REMOVED, line)
    return _TOKEN.sub(lambda found: REMOVED if _is_random(found[0]) else found[0], line)


def _is_random(token: str) -> bool:
    """Whether a long token looks like a key, not like the name of a model or a field."""
    odd = [len(part) for part in _SEPARATORS.split(token) if not _is_natural(part)]
    return sum(odd) >= _MIN_SECRET_CHARS or max(odd, default=0) >= _MIN_PART_CHARS


def _is_natural(part: str) -> bool:
    if part.isdigit():
        return len(part) <= _MIN_PART_CHARS or len(part) > _MIN_SECRET_CHARS
    if any(char.isdigit() for char in part):
        return len(part) < _MIN_PART_CHARS // 2 + 1
    return "".join(_WORD.findall(part)) == part and len(_WORD.findall(part)) <= 1 + len(part) // 3


def _tidy(line: str) -> str:
    line = _EMPTY.sub("", _REPEATED_REMOVED.sub(REMOVED, line))
    return " ".join(line.split()).strip(" -:,;")


def _shorten(line: str) -> str:
    if len(line) <= MAX_CHARS:
        return line
    return f"{line[: MAX_CHARS - 1].rsplit(' ', 1)[0]}…"
