// The Vercel AI SDK, by its provider for servers that speak OpenAI's API.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { API_KEY, BASE_URL, CITY, expect, leftByTheCaller, once, play, tell } from "./report.mjs";

const make = (apiKey) => createOpenAICompatible({ name: "ours", baseURL: BASE_URL, apiKey, supportsStructuredOutputs: true });
const ours = make(API_KEY);

const fails = (status, directive, name = "p/ok", provider = ours) => async () => {
  let error = null;
  try {
    await generateText({ model: provider(name), prompt: play(directive) });
  } catch (caught) {
    error = caught.lastError ?? caught;
  }
  expect(APICallError.isInstance(error), `another error: ${error}`);
  expect(error.statusCode === status, `other status: ${error.statusCode}`);
};

await tell("Vercel AI SDK", "ai", {
  async chat() {
    const answer = await generateText({ model: ours("p/ok"), prompt: play() });
    expect(answer.text.split(" ").length === 8, `other text: ${answer.text}`);
    expect(answer.usage.totalTokens === 40, "other usage");
  },
  async stream() {
    const going = streamText({ model: ours("p/ok"), prompt: play() });
    let pieces = 0, text = "";
    for await (const piece of going.textStream) {
      pieces += 1;
      text += piece;
    }
    expect(pieces > 1 && text.split(" ").length === 8, `other text: ${text}`);
  },
  async tools() {
    const seen = [];
    const look_up = tool({
      description: "What is known of a city.",
      inputSchema: z.object({ city: z.string() }),
      execute: async ({ city }) => seen.push(city) && "rainy",
    });
    const answer = await generateText({ model: ours("p/tools"), prompt: play({ do: "tools" }), tools: { look_up }, stopWhen: stepCountIs(3) });
    expect(seen.sort().join() === "Oslo,Turku", `other calls: ${seen}`);
    expect(answer.text, "no text after the tools");
  },
  async structured() {
    const answer = await generateObject({ model: ours("p/ok"), prompt: play({ text: CITY }), schema: z.object({ city: z.string() }) });
    expect(answer.object.city === "Oslo", "not parsed");
  },
  async embeddings() {
    const answer = await embedMany({ model: ours.embeddingModel("p/ok"), values: ["a", "b"] });
    expect(answer.embeddings.length === 2, "other count");
  },
  async cancel() {
    const control = new AbortController();
    const going = streamText({ model: ours("p/ok"), prompt: play({ do: "slow", frames: 80 }), abortSignal: control.signal, onError() {} });
    for await (const _ of going.textStream) {
      control.abort();
      break;
    }
    expect(await leftByTheCaller(), "the provider went on");
  },
  400: fails(400, { do: "status-400" }),
  401: fails(401, {}, "p/ok", make("not-ours-0123456789")),
  404: fails(404, {}, "nobody-has-this"),
  429: fails(429, { do: "status-429" }),
  "5xx": fails(502, { do: "status-500" }),
  once: once(fails(502, { do: "status-500" })),
});
