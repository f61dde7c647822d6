"""The console's pages of keys, tenants and limits: what they show and change, and for which roles."""

import asyncio
import html
import re
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from running_console import RunningConsole, post
from running_stack import say

KEY_TEXT = re.compile(r"sk-llmp-[0-9A-Za-z]{12}-[0-9A-Za-z]{38}")


def new_name() -> str:
    """A name that no other test has."""
    return f"n{uuid4().hex[:10]}"


async def call(console: RunningConsole, key: str) -> httpx.Response:
    """One small chat with a key."""
    body = {"model": "plain", "messages": say("hello"), "max_tokens": 5}
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as client:
        return await client.post("/v1/chat/completions", json=body)


async def create(client: httpx.AsyncClient, **fields: str) -> tuple[str, str]:
    """Creates a key by its form; returns its text and the path of its page."""
    answer = await post(client, "/keys/new", **fields)
    assert answer.status_code == 200, answer.text
    [text] = KEY_TEXT.findall(answer.text)
    assert answer.headers["cache-control"] == "no-store"
    found = re.search(r'href="(/keys/key_[0-9A-Za-z]+)"', answer.text)
    assert found is not None
    return text, found[1]


async def test_a_key_is_created_shown_once_used_up_and_revoked(console: RunningConsole) -> None:
    name, tenant = new_name(), new_name()
    async with console.signed_in() as client:
        text, path = await create(
            client, name=name, tenant=tenant, user="eve", models="plain", budget_limit="2",
            budget_unit="requests", budget_period="total", budget_zone="",
        )  # fmt: skip
        assert [(await call(console, text)).status_code for _ in range(3)] == [200, 200, 429]
        async with asyncio.timeout(20):
            while "Last used at" not in (shown := await client.get(path)).text:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)
        assert text not in shown.text
        assert "Held by the user <strong>eve</strong> of the tenant" in shown.text
        assert "Created by <strong>admin_key</strong>" in shown.text
        assert "used up" in shown.text
        assert (await post(client, f"{path}/revoke", name="another")).status_code == 400
        gone = await post(client, f"{path}/revoke", name=name)
        assert (gone.status_code, gone.headers["location"]) == (303, path)
        assert "revoked" in (await client.get(path)).text
    found = await console.admin_api("GET", f"/admin/audit?subject={path.rpartition('/')[2]}")
    assert {one["action"] for one in found["data"]} == {"keys.create", "keys.revoke"}
    async with asyncio.timeout(10):
        while (await call(console, text)).status_code != 401:  # noqa: ASYNC110 -- within a second
            await asyncio.sleep(0.05)


async def test_who_holds_a_key_is_found_by_its_text_which_goes_into_no_address(
    console: RunningConsole,
) -> None:
    async with console.signed_in() as client:
        text, path = await create(client, name=new_name(), user="mallory")
        await create(client, name=new_name())
        sent = await post(client, "/keys/find", text=text)
        assert text not in sent.headers["location"]
        listed = (await client.get(sent.headers["location"])).text
        assert re.findall(r'href="(/keys/key_[^"]+)"', listed) == [path]
        assert "mallory" in (await client.get(path)).text


async def test_the_list_is_filtered_and_paged(console: RunningConsole) -> None:
    tenant = new_name()
    for number in range(3):
        await console.admin_api(
            "POST", "/admin/keys", name=f"{tenant}-{number}", tenant=tenant, agent=f"a{number}"
        )
    async with console.signed_in() as client:
        for query, names in (
            (f"tenant={tenant}", "012"),
            (f"tenant={tenant}&agent=a1", "1"),
            (f"text={tenant}-2", "2"),
            (f"tenant={tenant}&state=revoked", ""),
            ("tenant=nobody-has-this", ""),
            (f"tenant={tenant}&after={tenant}-0", "12"),
        ):
            page = await client.get(f"/keys?{query}")
            assert page.status_code == 200
            assert re.findall(rf">{tenant}-(\d)</a>", page.text) == [*names]


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"rpm": "-1"}, "rpm"),
        ({"rpm": "many"}, "rpm"),
        ({"tpm": "1.5"}, "tpm"),
        ({"name": ""}, "name"),
        ({"expires_at": "soon"}, "expires_at"),
        ({"max_tokens_cap": "0"}, "max_tokens_cap"),
    ],
    ids=str,
)
async def test_an_error_of_the_api_stands_at_its_field(
    console: RunningConsole, fields: dict[str, str], at: str
) -> None:
    async with console.signed_in() as client:
        page = await post(client, "/keys/new", **({"name": new_name(), "user": "kept"} | fields))
    assert page.status_code in {400, 422}
    assert re.search(rf'<small id="error-{at}" class="bad" role="alert">[^<]+</small>', page.text)
    assert 'value="kept"' in page.text


@pytest.mark.parametrize(
    ("limit", "unit", "zone"),
    [("x", "usd", ""), ("-1", "usd", ""), ("1.5", "tokens", ""), ("1", "usd", "Moon")],
)
async def test_an_error_of_a_budget_stands_at_the_budgets(
    console: RunningConsole, limit: str, unit: str, zone: str
) -> None:
    async with console.signed_in() as client:
        page = await post(
            client, "/keys/new", name=new_name(), budget_limit=limit, budget_unit=unit, budget_period="day",
            budget_zone=zone,
        )  # fmt: skip
    assert page.status_code in {400, 422}
    assert re.search(r'<legend>Budgets</legend>\s*<p class="problem" role="alert">', page.text)
    assert f'value="{limit}"' in page.text


async def test_a_change_is_simulated_then_saved_and_an_outdated_form_is_not(console: RunningConsole) -> None:
    name = new_name()
    async with console.signed_in() as client:
        text, path = await create(client, name=name, tenant=new_name(), rpm="7", tpm="900")
        await call(console, text)
        edited = (await client.get(f"{path}/change")).text
        changed_at = re.search(r'name="changed_at" value="([^"]+)"', edited)
        assert changed_at is not None
        form = {"name": name, "rpm": "1", "tpm": "900", "changed_at": changed_at[1], "cache": "on"}
        tried = await post(client, f"{path}/change", **form, action="simulate", range="24h")
        assert "would have been rejected" in tried.text
        key = await console.admin_api("GET", f"/admin/keys/{path.rpartition('/')[2]}")
        assert key["rpm"] == 7
        form["tenant"] = key["tenant"]
        saved = await post(client, f"{path}/change", **form, action="save")
        assert saved.status_code == 303, saved.text
        again = await post(client, f"{path}/change", **form, action="save")
        assert again.status_code == 400
        assert "changed meanwhile" in again.text
    key = await console.admin_api("GET", f"/admin/keys/{key['id']}")
    assert (key["rpm"], key["tpm"], key["tenant"]) == (1, 900, form["tenant"])


async def test_a_rotation_shows_the_new_key_once_and_not_again_by_a_reload(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        old, path = await create(client, name=new_name())
        prefixes = re.search(r'name="prefixes" value="([^"]+)"', (await client.get(f"{path}/rotate")).text)
        assert prefixes is not None
        fields = {"prefixes": prefixes[1], "overlap_s": "3600"}
        [new] = KEY_TEXT.findall((await post(client, f"{path}/rotate", **fields)).text)
        again = await post(client, f"{path}/rotate", **fields)
        assert again.status_code == 400
        assert KEY_TEXT.findall(again.text) == []
    assert [(await call(console, one)).status_code for one in (old, new)] == [200, 200]


async def test_a_key_is_raised_until_a_time_and_the_raise_is_ended(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        _, path = await create(client, name=new_name(), rpm="5")
        wrong = await post(client, f"{path}/raise", rpm="3", until="2100-01-01")
        assert wrong.status_code == 400
        assert 'role="alert"' in wrong.text
        until = (await console.admin_api("GET", "/admin/keys?limit=1"))["data"][0]["created_at"]
        late = f"{int(until[:4]) + 1}-01-01" if until[5:7] != "12" else f"{int(until[:4]) + 1}-11-01"
        assert (await post(client, f"{path}/raise", rpm="50", until=late)).status_code == 303
        assert "50 requests a minute" in (await client.get(path)).text
        assert (await post(client, f"{path}/raise/end")).status_code == 303
        assert "50 requests a minute" not in (await client.get(path)).text


async def test_a_viewer_sees_no_change_and_is_refused_by_the_server(console: RunningConsole) -> None:
    made = await console.admin_api("POST", "/admin/keys", name=new_name())
    path = f"/keys/{made['id']}"
    async with console.admin("viewer") as viewer:
        shown = (await viewer.get(path)).text
        assert f"{path}/revoke" not in shown
        assert "/keys/new" not in (await viewer.get("/keys")).text
        for page in ("/keys/new", f"{path}/change", f"{path}/rotate", f"{path}/raise", "/limits/rule"):
            assert (await viewer.get(page)).status_code == 403
            assert (await post(viewer, page, name="x")).status_code == 403
        for page in (f"{path}/revoke", "/switches", "/limits/rule/delete", "/models/test"):
            assert (await post(viewer, page, name=made["name"], subject="x", kind="key")).status_code == 403
        for page in ("/limits", "/switches", "/models", "/configuration", "/tenants"):
            assert (await viewer.get(page)).status_code == 200
    assert (await console.admin_api("GET", f"/admin/keys/{made['id']}"))["revoked_at"] is None


async def test_a_tenants_admin_sees_and_changes_its_tenant_alone(console: RunningConsole) -> None:
    tenant, other = new_name(), new_name()
    own = await console.admin_api("POST", "/admin/keys", name=new_name(), tenant=tenant)
    foreign = await console.admin_api("POST", "/admin/keys", name=new_name(), tenant=other)
    async with console.admin("tenant", tenant) as client:
        listed = (await client.get("/keys")).text
        assert own["id"] in listed
        assert foreign["id"] not in listed
        assert (await client.get(f"/keys/{own['id']}")).status_code == 200
        for path in (f"/keys/{foreign['id']}", f"/keys/{foreign['id']}/change", f"/tenants/{other}"):
            assert (await client.get(path)).status_code == 404
        assert (await post(client, f"/keys/{foreign['id']}/revoke", name=foreign["name"])).status_code == 404
        assert (await client.get(f"/keys?tenant={other}")).status_code == 403
        assert other not in (await client.get("/tenants")).text
        assert (await client.get(f"/tenants/{tenant}")).status_code == 200
        for path in ("/limits", "/switches", "/models", "/configuration"):
            assert (await client.get(path)).status_code == 403
        _, made = await create(client, name="fresh", rpm="3")
        assert f"{tenant}/fresh" in (await client.get(made)).text
        edited = (await client.get(f"{made}/change")).text
        changed_at = re.search(r'name="changed_at" value="([^"]+)"', edited)
        assert changed_at is not None
        form = {"name": f"{tenant}/fresh", "tenant": tenant, "rpm": "4", "changed_at": changed_at[1]}
        tried = await post(client, f"{made}/change", **form, cache="on", action="simulate", range="24h")
        assert "may not do this" in tried.text
    key = await console.admin_api("GET", f"/admin/keys/{made.rpartition('/')[2]}")
    assert key["rpm"] == 3  # what is only tried is not saved


async def test_a_holder_sees_its_own_key_alone(console: RunningConsole) -> None:
    tenant = new_name()
    own = await console.admin_api(
        "POST", "/admin/keys", name=new_name(), tenant=tenant, tpm=12345, user="holder"
    )
    async with console.signed_in(own["key"]) as client:
        shown = (await client.get("/keys")).text
        assert "12345" in shown
        assert own["prefixes"][0] in shown
        assert own["key"] not in shown
        for path in (f"/keys/{own['id']}", "/keys/new", "/tenants", "/limits", "/models"):
            assert (await client.get(path)).status_code == 403


async def test_a_rule_is_simulated_saved_and_deleted_and_keeps_what_the_form_does_not_know(
    console: RunningConsole,
) -> None:
    tenant = new_name()
    rule = {"scope": "tenant", "tenant": tenant, "rpm": "9", "mode": "shadow"}
    async with console.signed_in() as client:
        tried = await post(client, "/limits/rule", **rule, action="simulate", range="24h")
        assert "would have been rejected" in tried.text
        assert (await post(client, "/limits/rule", **rule, action="save")).status_code == 303
        listed = (await client.get(f"/limits?tenant={tenant}")).text
        assert "9 requests a minute" in listed
        assert (await client.get(f"/tenants/{tenant}")).status_code == 200
        edited = (await client.get(f"/limits/rule?scope=tenant&tenant={tenant}")).text
        assert 'name="exists" value="yes"' in edited
        wrong = await post(client, "/limits/rule", **rule, further='{"colour": 1}')
        assert wrong.status_code in {400, 422}
        assert "colour" in wrong.text
        assert (await post(client, "/limits/rule", **rule, further="[")).status_code == 400
        guard = {"mode": "observe"}
        known = {name: value for name, value in rule.items() if name != "rpm"}
        await console.admin_api("PUT", "/admin/limits", **known, rpm=9, loop_guard=guard)
        edited = (await client.get(f"/limits/rule?scope=tenant&tenant={tenant}")).text
        further = re.search(r'<textarea id="field-further"[^>]*>([^<]+)</textarea>', edited)
        assert further is not None
        changed = rule | {"rpm": "8", "further": html.unescape(further[1])}
        assert (await post(client, "/limits/rule", **changed)).status_code == 303
        [kept] = [
            one
            for one in (await console.admin_api("GET", "/admin/limits"))["data"]
            if one["tenant"] == tenant
        ]
        assert (kept["rpm"], kept["loop_guard"]["mode"]) == (8, "observe")
        gone = await post(client, "/limits/rule/delete", scope="tenant", tenant=tenant)
        assert gone.status_code == 303
        assert "9 requests a minute" not in (await client.get(f"/limits?tenant={tenant}")).text


async def test_a_kill_switch_rejects_until_it_is_removed(console: RunningConsole) -> None:
    key = await console.stack.new_key(tenant="t")
    prefix = key[:20]
    async with console.signed_in() as client:
        thrown = await post(client, "/switches", kind="key", subject=prefix, reason="<b>loop</b>")
        assert thrown.status_code == 303
        shown = (await client.get("/switches")).text
        assert "&lt;b&gt;loop" in shown
        async with asyncio.timeout(10):
            while (await call(console, key)).status_code == 200:  # noqa: ASYNC110 -- within a second
                await asyncio.sleep(0.05)
        found = re.search(r'name="subject" value="(key_[^"]+)"', shown)
        assert found is not None
        lifted = await post(client, "/switches/remove", kind="key", subject=found[1], tenant="*")
        assert lifted.status_code == 303
        assert (await post(client, "/switches", kind="key", subject="nobody")).status_code == 404


async def test_a_rule_of_runs_is_set_by_its_form(console: RunningConsole) -> None:
    agent = new_name()
    rule = {"scope": "run", "subject": f"agent:{agent}", "duration_s": "60", "budget_limit": "9"}
    budget = {"budget_unit": "turns", "budget_period": "total", "budget_zone": ""}
    async with console.signed_in() as client:
        assert (await post(client, "/limits/rule", **rule, **budget)).status_code == 303
        edited = (await client.get(f"/limits/rule?scope=run&subject=agent:{agent}")).text
        assert 'name="duration_s" type="text" value="60"' in edited
        assert 'value="9"' in edited
        assert "<option selected>turns</option>" in edited
        wrong = await post(client, "/limits/rule", **(rule | {"duration_s": "long"}), **budget)
        assert re.search(r'<small id="error-duration_s" class="bad" role="alert">', wrong.text)
        gone = await post(client, "/limits/rule/delete", scope="run", subject=f"agent:{agent}")
        assert gone.status_code == 303


async def test_a_keys_page_has_the_keys_below_it_and_theirs_the_key_above(console: RunningConsole) -> None:
    made = await console.admin_api("POST", "/admin/keys", name=new_name(), tenant=new_name())
    other = await console.admin_api("POST", "/admin/keys", name=new_name())
    child_name = new_name()
    headers = {"Authorization": f"Bearer {made['key']}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as holder:
        answer = await holder.post("/v1/keys/children", json={"name": child_name, "run": "job-7"})
    assert answer.is_success, answer.text
    child = answer.json()["id"]
    listed = await console.admin_api("GET", f"/admin/keys?above={made['id']}")
    assert [one["id"] for one in listed["data"]] == [child]
    assert (await console.admin_api("GET", f"/admin/keys?above={other['id']}"))["data"] == []
    async with console.signed_in() as client:
        assert f'href="/keys/{child}"' in (await client.get(f"/keys/{made['id']}")).text
        below = (await client.get(f"/keys/{child}")).text
        assert f'href="/keys/{made["id"]}"' in below
        assert "job-7" in below
