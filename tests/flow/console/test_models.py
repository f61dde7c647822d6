"""The console's pages of models and of the configuration."""

import re

from running_console import RunningConsole, post


async def test_models_show_deployments_prices_and_fallbacks(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        page = (await client.get("/models")).text
    assert re.search(
        r'<section class="card" id="plain".*?<td class="number">\$1</td><td class="number">\$2</td>',
        page,
        re.DOTALL,
    )
    assert '<title id="graph-title">Which group falls back to which</title>' in page
    assert re.search(r"<li>\S+ falls back to \S+\.</li>", page)
    assert "$0.002 a query" in page


async def test_a_test_call_is_made_once_and_is_on_record(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        tested = (await post(client, "/models/test", model="plain")).text
        assert re.search(r'<p class="good">plain answered in .* \(openai, plain, \$', tested)
        assert re.search(r'href="/requests/[0-9a-f-]{36}"', tested)
        assert (await post(client, "/models/test", model="no-such-model")).status_code == 404
    assert len(await console.stack.calls()) == 1


async def test_the_configuration_shows_findings_and_how_to_reload_without_a_launcher(
    console: RunningConsole,
) -> None:
    async with console.signed_in() as client:
        page = (await client.get("/configuration")).text
        assert "1 of 1 sidecars have loaded it as it is now" in page
        assert "deploy/reload.sh" in page
        assert "<button>Reload</button>" not in page
        assert (await post(client, "/configuration/reload")).status_code == 404
