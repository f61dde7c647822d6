"""OpenAI's moderations: one result an input, or one for an input of parts."""

from typing import Any

from scripted.script import Json, Script

CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
    "self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence",
    "violence/graphic",
)  # fmt: skip
WITH_IMAGES = frozenset(
    {"self-harm", "self-harm/instructions", "self-harm/intent", "sexual", "violence", "violence/graphic"}
)


def moderation(script: Script, body: Json, number: int) -> Json:
    """Each text that holds `kill` is violent; an image is looked at beside its text."""
    inputs: Any = body["input"]
    given: list[Any] = [inputs] if isinstance(inputs, str) else inputs
    several = all(isinstance(one, str) for one in given)
    return {
        "id": f"modr-{number}",
        "model": body["model"],
        "results": [_result(one) for one in (given if several else [given])],
        **({"provider_addition": {"kept": True}} if script.do == "ok" else {}),
    }


def _result(given: Any) -> Json:
    parts: list[Json] = [{"type": "text", "text": given}] if isinstance(given, str) else given
    violent = any("kill" in one.get("text", "") for one in parts)
    images = any(one["type"] == "image_url" for one in parts)
    scores = dict.fromkeys(CATEGORIES, 1e-06) | ({"violence": 0.91} if violent else {})
    applied = {name: ["text", "image"] if images and name in WITH_IMAGES else ["text"] for name in CATEGORIES}
    return {
        "flagged": violent,
        "categories": {name: score > 0.5 for name, score in scores.items()},
        "category_scores": scores,
        "category_applied_input_types": applied,
    }
