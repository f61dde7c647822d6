ask() { curl --silent --show-error --fail-with-body --no-buffer "$BASE_URL/$1" --json "$2" -H "Authorization: Bearer $KEY"; }

ask chat/completions '{"model": "smollm2", "messages": [{"role": "user", "content": "What is the capital of Japan?"}]}'
ask chat/completions '{"model": "smollm2", "stream": true, "messages": [{"role": "user", "content": "Tell me a story."}]}'
ask embeddings '{"model": "all-minilm-l6-v2", "input": "a cat"}'
