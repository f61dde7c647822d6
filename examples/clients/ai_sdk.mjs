import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, streamText } from "ai";

const { BASE_URL: baseURL, KEY: apiKey } = process.env;
const gateway = createOpenAICompatible({ name: "gateway", baseURL, apiKey });
const question = { model: gateway("smollm2"), prompt: "What is the capital of Japan?", maxRetries: 0 };

console.log((await generateText(question)).text);
for await (const text of streamText(question).textStream) process.stdout.write(text);
console.log();
console.log((await embed({ model: gateway.embeddingModel("all-minilm-l6-v2"), value: "a cat" })).embedding.length);
