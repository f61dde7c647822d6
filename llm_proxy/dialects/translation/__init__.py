"""What the translators of Responses and Messages share: chat requests built, OpenAI's chat answers read."""
