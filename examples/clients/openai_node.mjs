import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.KEY });
const messages = [{ role: "user", content: "What is the capital of Japan?" }];

const answer = await client.chat.completions.create({ model: "smollm2", messages });
console.log(answer.choices[0].message.content);
for await (const chunk of await client.chat.completions.create({ model: "smollm2", messages, stream: true }))
  process.stdout.write(chunk.choices[0].delta.content ?? "");
console.log();
const vectors = await client.embeddings.create({ model: "all-minilm-l6-v2", input: "a cat" });
console.log(vectors.data[0].embedding.length);
