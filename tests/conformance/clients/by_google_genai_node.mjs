// Google's Gen AI SDK for JavaScript, on Gemini natively and on a chat model.
import { ApiError, GoogleGenAI, Type } from "@google/genai";
import { API_KEY, BASE_URL, calls, CITY, expect, leftByTheCaller, play, raises, tell } from "./report.mjs";

const baseUrl = BASE_URL.replace(/\/v1$/, "");
const made = (apiKey = API_KEY) => new GoogleGenAI({ apiKey, httpOptions: { baseUrl } });
const { chats, models } = made();
const lookUp = {
  name: "look_up",
  parameters: { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ["city"] },
};
const tools = [{ functionDeclarations: [lookUp] }];

const each = (model) => ({
  async content() {
    const config = { temperature: 0.2, maxOutputTokens: 50, systemInstruction: "Be short.", thinkingConfig: { thinkingBudget: 0 } };
    const answer = await models.generateContent({ model, contents: play(), config });
    expect(answer.text.split(" ").length === 8, `other text: ${answer.text}`);
    expect(answer.usageMetadata.totalTokenCount === 40, "other usage");
  },
  async stream() {
    let text = "", usage = null;
    for await (const chunk of await models.generateContentStream({ model, contents: play() })) {
      text += chunk.text ?? "";
      usage = chunk.usageMetadata ?? usage;
    }
    expect(text.split(" ").length === 8 && usage.totalTokenCount === 40, `other stream: ${text}`);
  },
  async structured() {
    const responseSchema = { type: Type.OBJECT, properties: { city: { type: Type.STRING } } };
    const config = { responseMimeType: "application/json", responseSchema };
    const answer = await models.generateContent({ model, contents: play({ text: CITY }), config });
    expect(JSON.parse(answer.text).city === "Oslo", "not parsed");
  },
  async functions() {
    const plan = play({ do: "agent", steps: [[["look_up", { city: "Oslo" }]]], text: "Fair." });
    const talk = chats.create({ model, config: { tools } });
    const [call] = (await talk.sendMessage({ message: plan })).functionCalls;
    expect(call.args.city === "Oslo", "other call");
    const result = { functionResponse: { id: call.id, name: call.name, response: { weather: "fair" } } };
    expect((await talk.sendMessage({ message: [result] })).text === "Fair.", "other words");
    const sent = (await calls()).at(-1).body;
    expect(JSON.stringify(sent).includes("fair"), "the result did not come back");
  },
  async count() {
    expect((await models.countTokens({ model, contents: "hello" })).totalTokens > 0, "nothing counted");
  },
  async cancel() {
    const stop = new AbortController();
    const config = { abortSignal: stop.signal };
    const going = await models.generateContentStream({ model, contents: play({ do: "slow", frames: 80 }), config });
    try {
      for await (const _ of going) stop.abort();
    } catch {}
    expect(await leftByTheCaller(), "the provider went on");
  },
  async fails() {
    const ask = (doing, name = model, one = models) => () => one.generateContent({ model: name, contents: play({ do: doing }) });
    for (const status of [400, 429]) {
      const error = await raises(ApiError, ask(`status-${status}`));
      expect(error.status === status, `other status: ${error.status}`);
    }
    expect((await raises(ApiError, ask("ok", "nobody-has-this"))).status === 404, "not a 404");
    expect((await raises(ApiError, ask("ok", model, made("not-ours-0123456789").models))).status === 401, "not a 401");
  },
});

const on = (kind, model) =>
  Object.fromEntries(Object.entries(each(model)).map(([name, check]) => [`${name} on ${kind}`, check]));

await tell("google-genai-node", "@google/genai", {
  ...on("Gemini", "gemini-2.5-flash"),
  ...on("a chat model", "chat"),
  async vectors() {
    for (const model of ["gemini-embedding-001", "text-embedding-3-small"]) {
      const found = await models.embedContent({ model, contents: ["a", "b"] });
      expect(found.embeddings.length === 2 && found.embeddings[0].values.length, "other vectors");
    }
  },
  async "list of models"() {
    const names = [];
    for await (const one of await models.list({ config: { pageSize: 5 } })) names.push(one.name);
    expect(names.includes("models/gemini-2.5-flash"), `not listed: ${names}`);
  },
});
