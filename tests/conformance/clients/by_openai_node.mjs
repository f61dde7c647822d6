// The OpenAI SDK for JavaScript.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { API_KEY, BASE_URL, CITY, expect, leftByTheCaller, once, play, raises, tell } from "./report.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const tool = { type: "function", function: { name: "look_up", parameters: { type: "object", properties: {} } } };
const say = (directive) => [{ role: "user", content: play(directive) }];

const fails = (kind, directive, model = "p/ok", one = client) => async () => {
  await raises(kind, () => one.chat.completions.create({ model, messages: say(directive) }));
};

await tell("openai-node", "openai", {
  async chat() {
    const answer = await client.chat.completions.create({ model: "p/ok", messages: say() });
    expect(answer.choices[0].message.content, "no text");
    expect(answer.usage.total_tokens === 40, "other usage");
  },
  async stream() {
    const options = { include_usage: true };
    const going = await client.chat.completions.create({ model: "p/ok", messages: say(), stream: true, stream_options: options });
    let text = "", usage = null;
    for await (const chunk of going) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    expect(text.split(" ").length === 8, `other text: ${text}`);
    expect(usage?.total_tokens === 40, "no usage at the end");
  },
  async tools() {
    const answer = await client.chat.completions.create({ model: "p/tools", messages: say({ do: "tools" }), tools: [tool] });
    const cities = answer.choices[0].message.tool_calls.map((one) => JSON.parse(one.function.arguments).city);
    expect(cities.join() === "Oslo,Turku", `other calls: ${cities}`);
  },
  async structured() {
    const format = zodResponseFormat(z.object({ city: z.string() }), "place");
    const answer = await client.chat.completions.parse({ model: "p/ok", messages: say({ text: CITY }), response_format: format });
    expect(answer.choices[0].message.parsed.city === "Oslo", "not parsed");
  },
  async embeddings() {
    const plain = await client.embeddings.create({ model: "p/ok", input: ["a", "b"], encoding_format: "float" });
    expect(plain.data.length === 2 && plain.data[0].embedding.length === 8, "other vectors");
  },
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    expect(names.includes("plain"), "not listed");
  },
  async cancel() {
    const going = await client.chat.completions.create({ model: "p/ok", messages: say({ do: "slow", frames: 80 }), stream: true });
    for await (const _ of going) {
      going.controller.abort();
      break;
    }
    expect(await leftByTheCaller(), "the provider went on");
  },
  400: fails(OpenAI.BadRequestError, { do: "status-400" }),
  401: fails(OpenAI.AuthenticationError, {}, "p/ok", new OpenAI({ baseURL: BASE_URL, apiKey: "not-ours-0123456789" })),
  404: fails(OpenAI.NotFoundError, {}, "nobody-has-this"),
  429: fails(OpenAI.RateLimitError, { do: "status-429" }),
  "5xx": fails(OpenAI.InternalServerError, { do: "status-500" }),
  once: once(fails(OpenAI.InternalServerError, { do: "status-500" })),
});
