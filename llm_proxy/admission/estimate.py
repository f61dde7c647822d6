"""How many tokens a call may use, before it ran.

Sources: English text takes about four bytes a token; OpenAI's own limiter counts the same way. An answer
without a stated maximum is expected to be as long as 95 of 100 recent answers of its model group; while
fewer than `FEWEST` are known, as long as the model can write, at most `UNSAID_TOKENS`.
Invariant: bounded memory, the last `REMEMBERED` answers of each of `MOST_GROUPS` groups: those of all
replicas when the process began, and its own since then.
Units: tokens; an answer's are counted per choice.
"""

from collections import deque
from collections.abc import Iterable
from math import ceil

from llm_proxy.dialects import Call
from llm_proxy.money import Price

BYTES_PER_TOKEN = 4
UNSAID_TOKENS = 4096
REMEMBERED, FEWEST = 200, 20
MOST_GROUPS = 1_000
SHARE = 0.95
UNBOUNDED = 2**31
"""So many tokens are asked for by who asks for an answer without end."""


class AnswerLengths:
    """How long the last answers of each model group were."""

    def __init__(self) -> None:
        self._last: dict[str, deque[int]] = {}
        self._percentile: dict[str, int] = {}

    def add(self, call: Call, completion_tokens: int) -> None:
        """An answer was settled."""
        if call.door != "embeddings":
            self._of(call.group).append(-(-completion_tokens // max(1, call.choices)))
            self._percentile.pop(call.group, None)

    def recall(self, latest: Iterable[tuple[str, int]]) -> None:
        """Answers of before, by group, the latest first; what was added since then stays the latest."""
        for group, completion_tokens in latest:
            last = self._of(group)
            if len(last) < REMEMBERED:
                last.appendleft(completion_tokens)
        self._percentile.clear()

    def _of(self, group: str) -> deque[int]:
        last = self._last.get(group)
        if last is None:
            if len(self._last) >= MOST_GROUPS:
                self._last.clear()
                self._percentile.clear()
            last = self._last[group] = deque(maxlen=REMEMBERED)
        return last

    def percentile(self, group: str) -> int | None:
        """The 95th percentile; None while too few answers are known."""
        last = self._last.get(group)
        if last is None or len(last) < FEWEST:
            return None
        found = self._percentile.get(group)
        if found is None:
            found = self._percentile[group] = sorted(last)[ceil(SHARE * len(last)) - 1]
        return found


def tokens(call: Call, price: Price | None, usual: int | None) -> tuple[int, int]:
    """Prompt and completion tokens to reserve for a call; `usual` is its group's percentile."""
    prompt = -(-call.prompt_bytes // BYTES_PER_TOKEN)
    if call.door == "embeddings":
        return prompt, 0
    answer = call.max_tokens
    if answer is None or answer >= UNBOUNDED:
        answer = UNSAID_TOKENS if usual is None else usual
    if price is not None and price.most_tokens is not None:
        answer = min(answer, price.most_tokens)
    return prompt, answer * max(1, call.choices)
