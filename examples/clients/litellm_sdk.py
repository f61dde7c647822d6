import os

from litellm import completion, embedding

gateway = {"api_base": os.environ["BASE_URL"], "api_key": os.environ["KEY"]}
question = {"role": "user", "content": "What is the capital of Japan?"}

print(completion("openai/smollm2", [question], **gateway).choices[0].message.content)
for chunk in completion("openai/smollm2", [question], stream=True, **gateway):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
print(len(embedding("openai/all-minilm-l6-v2", ["a cat"], **gateway).data[0]["embedding"]))
