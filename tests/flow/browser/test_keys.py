"""Keys, limits, models and the playground in a browser, as a person uses them."""

import os
import re
from urllib.parse import quote

from chromium import WatchedPage
from running_console import RunningConsole
from running_stack import ADMIN_KEY, script

CANARY = "<img src=x onerror=alert(1)>'\"{{7*7}}"
KEY_TEXT = re.compile(r"sk-llmp-[0-9A-Za-z]{12}-[0-9A-Za-z]{38}")


def new_name() -> str:
    """A name that no other test has."""
    return f"b{os.urandom(5).hex()}"


async def create_key(watched: WatchedPage, name: str, *, unit: str = "usd", **fields: str) -> str:
    """Creates a key as a person does; returns its text and leaves the browser on its page.

    `unit` is that of its first budget.
    """
    page = watched.page
    await watched.visit("/keys")
    await page.get_by_role("link", name="Create a key").click()
    await page.get_by_label("Name", exact=True).fill(name)
    for label, text in fields.items():
        await page.get_by_label(label, exact=True).fill(text)
    await page.locator("#budget-unit-1").select_option(unit)
    await page.get_by_role("button", name="Create").click()
    text = await page.locator("#secret").inner_text()
    assert KEY_TEXT.fullmatch(text)
    await watched.check()
    await page.get_by_role("link", name="I have it").click()
    await page.get_by_role("heading", name=f"Key {name}").wait_for()
    return text


async def test_a_key_is_created_used_up_and_revoked_and_its_holder_is_found_in_three_clicks(
    page: WatchedPage, console: RunningConsole
) -> None:
    name = new_name()
    await page.sign_in(ADMIN_KEY)
    text = await create_key(page, name, User="eve", **{"Limit 1": "1"})
    path = page.page.url.removeprefix(console.url)
    for action in ("change", "raise", "rotate", "revoke"):
        await page.visit(f"{path}/{action}")
    await page.visit("/keys")
    await page.page.get_by_label("Search").fill(text)
    await page.page.get_by_role("button", name="Show").click()  # the first click
    assert text not in page.page.url
    await page.page.get_by_role("link", name=name).click()  # the second
    assert "Held by the user eve" in await page.page.locator("#holder").inner_text()
    await page.page.go_back()
    await page.page.go_back()
    assert text not in await page.page.content()
    await page.visit(f"{path}/revoke")
    await page.page.get_by_label("Type its name to confirm").fill(name)
    await page.page.get_by_role("button", name="Revoke").click()
    await page.page.get_by_text("The key was revoked.").wait_for()
    await page.check()


async def test_names_are_texts_on_every_page(page: WatchedPage) -> None:
    name = f"{new_name()}{CANARY}"
    await page.sign_in(ADMIN_KEY)
    await create_key(page, name, Tenant=CANARY, User=CANARY, Agent=CANARY, Tags="a")
    key = page.page.url.partition("/keys/")[2]
    quoted = quote(CANARY, safe="")
    for path in (
        f"/keys?tenant={quoted}", f"/keys/{key}", f"/keys/{key}/change", f"/keys/{key}/revoke",
        f"/tenants/{quoted}", f"/limits/rule?scope=tenant&tenant={quoted}", f"/limits?tenant={quoted}",
        f"/switches?kind=tenant&subject={quoted}", f"/playground?model={quoted}",
        f"/keys/new?tenant={quoted}",
    ):  # fmt: skip
        await page.visit(path)
        assert await page.page.locator("img[src=x]").count() == 0
        assert "49" not in await page.page.title()


async def test_a_providers_message_with_markup_runs_nowhere(
    page: WatchedPage, console: RunningConsole
) -> None:
    """In the playground's answer, whole and streamed, which a script writes; and on the request's page."""
    await page.sign_in(await console.stack.new_key(tenant="t"))
    for is_streamed in (True, False):
        await page.visit("/playground?model=p/says-markup")
        await page.page.get_by_label("Streamed").set_checked(is_streamed)
        await page.page.get_by_label("Prompt, or input").fill("x")
        with page.expecting(400):
            await page.page.get_by_role("button", name="Call", exact=True).click()
            await page.page.locator("#answer", has_text="<script>alert(1)</script>").wait_for()
        await page.check()
        assert await page.page.locator("img[src=x], #answer *").count() == 0
    await page.page.get_by_role("link", name="request details").click()
    await page.page.get_by_role("heading", name="Steps").wait_for()
    told = await page.page.locator("p.problem").first.inner_text()
    assert "<img src=x onerror=alert(1)>" in told
    assert await page.page.locator("img[src=x]").count() == 0
    await page.check()


async def test_the_playground_streams_shows_its_story_and_stops(
    page: WatchedPage, console: RunningConsole
) -> None:
    await page.sign_in(await console.stack.new_key(tenant="t"))
    await page.visit("/playground")
    model, stop = page.page.get_by_label("Model", exact=True), page.page.get_by_role("button", name="Stop")
    assert await model.input_value() != ""
    offered = page.page.locator("#models option")
    assert "plain" in [await one.get_attribute("value") for one in await offered.all()]
    await page.page.get_by_label("Endpoint").select_option("/v1/rerank")
    assert "plain" not in [await one.get_attribute("value") for one in await offered.all()]
    assert await model.input_value() == "ranker"
    await page.page.get_by_label("Endpoint").select_option("/v1/chat/completions")
    await model.fill("plain")
    assert await stop.is_disabled()
    await page.page.get_by_label("Prompt, or input").fill("hello")
    await page.page.keyboard.press("Enter")
    await page.page.locator("#answer", has_text="meadow7").wait_for()
    await page.page.locator("#status", has_text="200").wait_for()
    await page.check()
    story = await page.page.get_by_role("link", name="request details").get_attribute("href")
    assert story is not None
    assert re.fullmatch(r"/requests/[0-9a-f-]{36}", story)
    await page.page.get_by_label("Prompt, or input").fill(script(do="ok", frames=500, gap_ms=50))
    await page.page.get_by_role("button", name="Call", exact=True).click()
    await page.page.locator("#answer", has_text="0").wait_for()
    await stop.click()
    await page.page.locator("#status", has_text="stopped").wait_for()
    await page.page.get_by_role("button", name="As curl, Python, Node").click()
    await page.page.locator("#snippet-Node").wait_for()
    await page.check()
    await page.page.get_by_role("button", name="Explain").click()
    await page.page.get_by_text("admitted", exact=True).wait_for()
    await page.check()


async def test_the_pages_of_models_and_the_configuration(page: WatchedPage) -> None:
    await page.sign_in(ADMIN_KEY)
    await page.visit("/models")
    drawn = page.page.get_by_role("img", name="Which group falls back to which")
    assert await drawn.is_visible()
    await page.page.get_by_role("button", name="Test: one small call to plain", exact=True).click()
    await page.page.get_by_text("plain answered in").wait_for()
    await page.check()
    for path in ("/configuration", "/switches", "/limits/rule", "/limits"):
        await page.visit(path)
