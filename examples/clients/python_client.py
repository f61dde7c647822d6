import asyncio
import os

from llm_proxy_service import LLMProxyService, create_completion_request


async def main() -> None:
    async with LLMProxyService(base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"]) as service:
        request = create_completion_request("What is the capital of Japan?", model="smollm2")
        print((await service.generate_completion(request)).content)
        async for chunk in service.generate_streaming_completion(request):
            print(chunk.content, end="", flush=True)
        print()
        print(len((await service.generate_embeddings("a cat", "all-minilm-l6-v2")).vectors[0]))


asyncio.run(main())
