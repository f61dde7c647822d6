"""What stands behind the clients of images, audio, reranking, moderations and Google's API."""

from typing import Any


def _group(name: str, model: str, api_base: str = "PROVIDER/v1", **info: Any) -> dict[str, Any]:
    params = {"model": model, "api_base": api_base, "api_key": "sk-conformance"}
    return {"model_name": name, "litellm_params": params, "model_info": info}


CONFIG: dict[str, Any] = {
    "model_list": [
        _group("chat", "openai/plain"),
        _group("own-chat", "hosted_vllm/own-chat"),
        _group("rerank-v3.5", "cohere/rerank-v3.5", "PROVIDER"),
        _group(
            "jina-reranker-v2-base-multilingual", "jina_ai/jina-reranker-v2-base-multilingual", "PROVIDER"
        ),
        _group("rerank-2.5", "voyage/rerank-2.5", "PROVIDER/v1/rerank"),
        _group("omni-moderation-latest", "openai/omni-moderation-latest"),
        _group("gpt-image-1.5", "openai/gpt-image-1.5"),
        _group("dall-e-3", "openai/dall-e-3"),
        _group("gpt-4o-mini-tts", "openai/gpt-4o-mini-tts"),
        _group("tts-1", "openai/tts-1"),
        _group("whisper-1", "openai/whisper-1"),
        _group("gpt-4o-transcribe", "openai/gpt-4o-transcribe"),
        _group("gpt-4o-transcribe-diarize", "openai/gpt-4o-transcribe-diarize", mode="audio_transcription"),
        _group("text-embedding-3-small", "openai/text-embedding-3-small"),
        _group("embed-v4.0", "cohere/embed-v4.0", "PROVIDER/v2/embed"),
        _group("gemini-embedding-001", "gemini/gemini-embedding-001", "PROVIDER/v1beta"),
        _group(
            "gemini-2.5-flash-image",
            "gemini/gemini-2.5-flash-image",
            "PROVIDER/v1beta",
            supported_endpoints=["/v1beta/generateContent"],
        ),
        _group(
            "gemini-2.5-flash",
            "gemini/gemini-2.5-flash",
            "PROVIDER/v1beta",
            supported_endpoints=["/v1beta/generateContent"],
        ),
    ],
    "router_settings": {
        "num_retries": 1,  # beside 0 LiteLLM reads no policy
        "retry_policy": {"DefaultRetries": 0, "InternalServerErrorRetries": 1},
        "disable_cooldowns": True,
    },
}
SETTINGS = {
    "LLM_PROXY__CACHE_MODE": "off",
    "LLM_PROXY__DEFAULT_MODERATION_MODEL": "omni-moderation-latest",
}
