"""A program on a pseudo-terminal, as somebody who types sees it."""

import asyncio
import os
import pty
import subprocess


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._screen, behind = pty.openpty()
        os.set_blocking(self._screen, False)
        self.program = subprocess.Popen(command, env=env, stdin=behind, stdout=behind, stderr=behind)
        os.close(behind)
        self.shown = ""

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._screen, f"{line}\n".encode())

    async def until(self, text: str) -> None:
        """Wait until the terminal shows a text; at most 30 s."""
        async with asyncio.timeout(30):
            while text not in self.shown:
                try:
                    self.shown += os.read(self._screen, 65536).decode()
                except BlockingIOError:
                    await asyncio.sleep(0.02)

    async def exit_code(self) -> int:
        """The program's end."""
        code = await asyncio.to_thread(self.program.wait, 30)
        os.close(self._screen)
        return code
