"""How many tokens a call may use, before it ran.

Pure. Source: English text takes about four bytes a token; OpenAI's own limiter counts the same way.
Units: tokens.
"""

from llm_proxy.admission.budget import Price
from llm_proxy.dialects import Call

BYTES_PER_TOKEN = 4
UNSAID_TOKENS = 1024
"""Completion tokens to expect when neither the call nor the model says."""


def tokens(call: Call, price: Price | None) -> tuple[int, int]:
    """Prompt and completion tokens to reserve for a call."""
    prompt = -(-call.prompt_bytes // BYTES_PER_TOKEN)
    if call.door == "embeddings":
        return prompt, 0
    default = price.default_max_tokens if price else None
    said = [most for most in (call.max_tokens, default) if most is not None]
    return prompt, min(said, default=UNSAID_TOKENS) * max(1, call.choices)
