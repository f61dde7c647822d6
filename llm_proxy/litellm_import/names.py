"""LiteLLM's free texts as names of ours. Pure."""

from collections import Counter
from collections.abc import Iterable

from llm_proxy.identity.caller import MAX_NAME_CHARS

_ID_CHARS = 8


def clean_name(text: object) -> str:
    """Returns a text as a name: printable characters only, no outer blanks, at most `MAX_NAME_CHARS`."""
    printable = "".join(one if one.isprintable() else " " for one in str(text))
    return printable.strip()[:MAX_NAME_CHARS].strip()


def unique_names(named: Iterable[tuple[str, object]]) -> dict[str, str]:
    """Returns a name for each id; where several have the same, each gets the beginning of its id too."""
    wanted = {one: clean_name(name) or one for one, name in named}
    counts = Counter(wanted.values())
    names: dict[str, str] = {}
    for one, name in wanted.items():
        suffix = f" ({one[:_ID_CHARS]})" if counts[name] > 1 else ""
        names[one] = name[: MAX_NAME_CHARS - len(suffix)] + suffix
    return names
