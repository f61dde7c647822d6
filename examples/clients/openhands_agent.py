import os

from openhands.sdk import LLM, Agent, Conversation

os.environ.update(
    LLM_MODEL="openai/smollm2", LLM_BASE_URL=os.environ["BASE_URL"], LLM_API_KEY=os.environ["KEY"]
)
conversation = Conversation(agent=Agent(llm=LLM.load_from_env(), tools=[]), workspace=".")
conversation.send_message("What is the capital of Japan?")
conversation.run()
