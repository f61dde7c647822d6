"""A program of the Python client on a terminal: it asks, waits between the turns, shows figures, and ends."""

import os
import sys
from pathlib import Path

from running_stack import RunningStack, script
from terminal import Terminal

CHAT = """
import asyncio
from llm_proxy_service import LLMProxyError, LLMProxyService, LoadBalanceStrategy, create_chat_request


async def chat():
    service = LLMProxyService(
        cache_size=10, load_balance_strategy=LoadBalanceStrategy.FASTEST_RESPONSE, enable_failover=True
    )
    await service.start()
    try:
        turns = []
        while (said := input("> ")) != "bye":
            turns.append({"role": "user", "content": said})
            try:
                answer = await service.generate_completion(create_chat_request(messages=turns, model="plain"))
            except LLMProxyError as error:
                print(f"[{error.code}]")
                continue
            print(f"<{answer.content}>")
            turns.append({"role": "assistant", "content": answer.content})
            print(f"[{service.get_service_stats()['total_requests']} requests]")
    finally:
        await service.stop()
        print("[stopped]")


asyncio.run(chat())
"""


async def test_a_conversation_on_a_terminal(stack: RunningStack, tmp_path: Path) -> None:
    """Each turn has the turns before it; an error is shown and the conversation goes on; the end is clean."""
    (tmp_path / "chat.py").write_text(CHAT, encoding="utf-8")
    env = {**os.environ, "LLM_PROXY_URL": stack.url, "LLM_PROXY_API_KEY": stack.key}
    terminal = Terminal([sys.executable, "-W", "error", str(tmp_path / "chat.py")], env)
    await terminal.until("LLM_PROXY_LOAD_BALANCE=FASTEST_RESPONSE")
    for number, (said, answered) in enumerate(
        [
            (script(do="ok", text="Bonjour."), "<Bonjour.>"),
            (script(do="status-400"), "[invalid_value]"),
            (script(do="ok", text="Au revoir."), "<Au revoir.>"),
        ]
    ):
        await terminal.until("> ")
        terminal.shown = ""
        terminal.type(said)
        await terminal.until(answered)
        if answered.startswith("<"):
            await terminal.until(f"[{number + 1} requests]")
    terminal.type("bye")
    await terminal.until("[stopped]")
    assert await terminal.exit_code() == 0
    last = (await stack.calls())[-1]["body"]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "user"]
    assert last[1]["content"] == "Bonjour."
