"""What a model reasoned, sealed for the caller to keep and to send back.

Pure. Invariants: a caller can neither read nor change what it keeps; only what this gateway sealed opens, and
goes to a provider; signed blocks go back byte by byte to the providers that verify them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from llm_proxy.dialects.responses.conversation import Thoughts
from llm_proxy.dialects.translation.chat_answer import ThinkingPiece
from llm_proxy.sealing import Sealer

_PURPOSE = "responses.reasoning"


@dataclass(frozen=True, slots=True)
class ReasoningSeal:
    """Seals and opens the `encrypted_content` of reasoning items."""

    sealer: Sealer

    def seal(self, blocks: Sequence[ThinkingPiece], *, is_signed: bool) -> str:
        """Returns the sealed blocks."""
        payload = {"signed": is_signed, "blocks": [tuple(block) for block in blocks]}
        return self.sealer.seal(_PURPOSE, orjson.dumps(payload))

    def open(self, sealed: str) -> Thoughts | None:
        """Returns what was sealed; None for another provider's content, or another gateway's."""
        payload = self.sealer.open(_PURPOSE, sealed)
        if payload is None:
            return None
        document = orjson.loads(payload)
        pieces = tuple(ThinkingPiece(*block) for block in document["blocks"])
        return Thoughts(pieces, document["signed"])
