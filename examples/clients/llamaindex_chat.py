import os

from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

gateway = {"api_base": os.environ["BASE_URL"], "api_key": os.environ["KEY"], "max_retries": 0}
model = OpenAILike(model="smollm2", is_chat_model=True, **gateway)

print(model.complete("What is the capital of Japan?").text)
for chunk in model.stream_complete("What is the capital of Japan?"):
    print(chunk.delta, end="", flush=True)
print()
print(len(OpenAILikeEmbedding(model_name="all-minilm-l6-v2", **gateway).get_text_embedding("a cat")))
