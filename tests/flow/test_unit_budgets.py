"""A budget of searches from outside: reserved, settled, shown, explained, refused; chats do not know it."""

from uuid import uuid4

import httpx
from loopback import NO_TLS
from running_stack import ADMIN_KEY, Json, RunningStack, say

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
TWO_UNITS: Json = {"model": "ranker", "query": "q", "documents": ["a document"] * 101}


async def test_a_key_s_budget_of_searches(stack: RunningStack) -> None:
    """Three a day: the second call is alone with what is left, the third is refused; a chat is not."""
    budgets: list[Json] = [
        {"limit_search_units": 3, "period": "day"},
        {"limit_audio_seconds": 60, "period": "total"},
    ]
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, timeout=20) as client:
        made = await client.post(
            "/admin/keys", json={"name": uuid4().hex, "models": ["*"], "budgets": budgets}, headers=ADMIN
        )
        assert made.status_code == 201, made.text
        assert made.json()["budgets"] == budgets
        key = {"Authorization": f"Bearer {made.json()['key']}"}

        async def post(path: str, body: Json) -> httpx.Response:
            return await client.post(path, json=body, headers=key)

        admitted = [await post("/v1/rerank", TWO_UNITS) for _ in range(2)]
        assert [one.status_code for one in admitted] == [200, 200]
        refused = await post("/v1/rerank", TWO_UNITS)
        assert refused.status_code == 429
        assert "4 of 3 search units a day spent, 0 search units left" in refused.text
        chat: Json = {"model": "plain", "messages": say(uuid4().hex)}
        assert (await post("/v1/chat/completions", chat)).status_code == 200

        limits = (await client.get("/v1/limits", headers=key)).json()["limits"]
        shown = {
            one["unit"]: (one["limit"], one["used"], one["remaining"]) for one in limits if "unit" in one
        }
        assert shown == {"search_units": (3, 4, 0), "audio_seconds": (60, 0, 60)}
        explained = (await post("/v1/explain?path=/v1/rerank", TWO_UNITS)).json()
        assert (explained["verdict"], explained["refusal"]["code"]) == ("refused", "insufficient_quota")
        assert [one["unit"] for one in explained["limits"] if "unit" in one] == ["search_units"]
        explained = (await post("/v1/explain", chat)).json()
        assert explained["verdict"] == "admitted"
        assert [one for one in explained["limits"] if "unit" in one] == []
        reached = await stack.story_of_rejection(lambda: post("/v1/rerank", TWO_UNITS))
        assert reached["reached"]["unit"] == "search_units"
        assert "4 of 3 search units a day used; wanted 2 search units" in "\n".join(reached["story"])
        story = await stack.story(admitted[0].headers["x-request-id"])
        assert story["search_units"] == 2
        assert any("2 search units" in line for line in story["story"])
