import os

from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key=os.environ["KEY"])
question = {"role": "user", "content": "What is the capital of Japan?"}

answer = client.chat.completions.create(model="smollm2", messages=[question])
print(answer.choices[0].message.content)
for chunk in client.chat.completions.create(model="smollm2", messages=[question], stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
print(len(client.embeddings.create(model="all-minilm-l6-v2", input="a cat").data[0].embedding))
