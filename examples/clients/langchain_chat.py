import os

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

gateway = {"base_url": os.environ["BASE_URL"], "api_key": os.environ["KEY"]}
model = ChatOpenAI(model="smollm2", **gateway)

print(model.invoke("What is the capital of Japan?").content)
for chunk in model.stream("What is the capital of Japan?"):
    print(chunk.content, end="", flush=True)
print()
embeddings = OpenAIEmbeddings(model="all-minilm-l6-v2", check_embedding_ctx_length=False, **gateway)
print(len(embeddings.embed_query("a cat")))
