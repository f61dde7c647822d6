"""A sidecar that answers calls but no checks: busy, not dead."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from two_sidecars import TwoSidecars, run_gateway

from llm_proxy.stack import probe

BUSY = Path(__file__).parents[1] / "busy_sidecar.py"
LAST_FRAME = '"25 "'


async def test_a_stream_that_goes_on_keeps_its_sidecar_alive(
    tmp_path: Path, two_sidecars: TwoSidecars
) -> None:
    """Longer than a silent one would be given; it ends as it should."""
    port = probe.free_port()
    with subprocess.Popen([sys.executable, str(BUSY), str(port)], env=dict(os.environ)) as sidecar:  # noqa: ASYNC220 -- nothing else runs yet
        names = {"LLM_PROXY__LITELLM_PROXY_URL": f"http://127.0.0.1:{port}"}
        try:
            with run_gateway(tmp_path, two_sidecars, names, sidecars=0) as made:
                async with httpx.AsyncClient(timeout=40) as client:
                    answer = await made.chat(client, made.body(stream=True))
        finally:
            sidecar.kill()
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")
    assert LAST_FRAME in answer.text
