// The OpenAI SDK for JavaScript on images, audio, moderations, and as Azure's client.
import OpenAI, { AzureOpenAI, toFile } from "openai";
import { API_KEY, BASE_URL, calls, expect, leftByTheCaller, play, raises, tell } from "./report.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const endpoint = BASE_URL.replace(/\/v1$/, "");
const azure = new AzureOpenAI({ endpoint, apiKey: API_KEY, apiVersion: "2025-04-01-preview", maxRetries: 0 });
const PNG = Buffer.from("89504e470d0a1a0a0000000d49484452", "hex");
const paint = { model: "gpt-image-1.5", prompt: "a cat" };
const speak = { model: "gpt-4o-mini-tts", input: "Hello.", voice: "alloy" };
const say = [{ role: "user", content: play() }];
const sound = () => toFile(Buffer.concat([Buffer.from("RIFF"), Buffer.alloc(40)]), "a.wav");
const picture = (name) => toFile(PNG, name, { type: "image/png" });

async function kinds(going) {
  const found = [];
  for await (const event of await going) found.push(event.type);
  return found.join();
}

await tell("openai-node, media", "openai", {
  async moderations() {
    const { results } = await client.moderations.create({ input: ["kill", "be kind"] });
    expect(results[0].flagged && !results[1].flagged, "other flags");
  },
  async images() {
    const made = await client.images.generate({ ...paint, n: 2 });
    expect(made.data.length === 2 && made.usage.total_tokens === 40, "other pictures");
    const raw = await client.images.generate(paint).asResponse();
    expect((await raw.json()).data.length === 1, "not raw");
  },
  async "images streamed"() {
    const found = await kinds(client.images.generate({ ...paint, stream: true, partial_images: 1 }));
    expect(found === "image_generation.partial_image,image_generation.completed", found);
  },
  async edits() {
    const image = [await picture("a.png"), await picture("b.png")];
    expect((await client.images.edit({ ...paint, image, mask: await picture("m.png") })).data.length, "no picture");
    expect((await calls())[0].body.files.length === 3, "other files");
    const found = await kinds(client.images.edit({ ...paint, image: image[0], stream: true, partial_images: 1 }));
    expect(found === "image_edit.partial_image,image_edit.completed", found);
  },
  async speech() {
    const made = await client.audio.speech.create({ ...speak, response_format: "wav" });
    expect((await made.arrayBuffer()).byteLength === 24000, "other bytes");
  },
  async transcriptions() {
    const file = await sound();
    expect((await client.audio.transcriptions.create({ file, model: "gpt-4o-transcribe" })).text, "no text");
    const srt = await client.audio.transcriptions.create({ file, model: "whisper-1", response_format: "srt" });
    expect(typeof srt === "string" && srt.includes("-->"), `other: ${srt}`);
    const found = await kinds(client.audio.transcriptions.create({ file, model: "gpt-4o-transcribe", stream: true }));
    expect(found.endsWith("transcript.text.delta,transcript.text.done"), found);
  },
  async translations() {
    expect((await client.audio.translations.create({ file: await sound(), model: "whisper-1" })).text, "no text");
  },
  async AzureOpenAI() {
    expect((await azure.chat.completions.create({ model: "chat", messages: say })).usage, "no usage");
    let chunks = 0;
    for await (const _ of await azure.chat.completions.create({ model: "chat", messages: say, stream: true })) chunks += 1;
    expect(chunks > 7, "no stream");
    expect((await azure.embeddings.create({ model: "text-embedding-3-small", input: "a" })).data.length, "no vectors");
    expect((await azure.images.generate(paint)).data.length, "no pictures");
    expect((await azure.images.edit({ ...paint, image: await picture("a.png") })).data.length, "no edit");
    expect((await (await azure.audio.speech.create(speak)).arrayBuffer()).byteLength === 24000, "other bytes");
    expect((await azure.audio.transcriptions.create({ file: await sound(), model: "whisper-1" })).text, "no text");
    const fixed = new AzureOpenAI({ endpoint, apiKey: API_KEY, apiVersion: "2025-04-01-preview", deployment: "chat" });
    expect((await fixed.chat.completions.create({ messages: say })).usage, "no usage at the deployment");
  },
  async errors() {
    const failing = (doing) => ({ ...paint, prompt: play({ do: doing }) });
    await raises(OpenAI.BadRequestError, () => client.images.generate(failing("status-400")));
    await raises(OpenAI.RateLimitError, () => client.images.generate(failing("status-429")));
    await raises(OpenAI.InternalServerError, () => client.images.generate(failing("status-500")));
    await raises(OpenAI.NotFoundError, () => client.images.generate({ ...paint, model: "nobody-has-this" }));
    await raises(OpenAI.APIError, () => kinds(client.images.generate({ ...failing("error-in-200"), stream: true, partial_images: 2 })));
    const other = new OpenAI({ baseURL: BASE_URL, apiKey: "not-ours-0123456789" });
    await raises(OpenAI.AuthenticationError, () => other.moderations.create({ input: "x" }));
  },
  async leaving() {
    const stop = new AbortController();
    const slow = { ...speak, input: play({ do: "slow", frames: 80 }) };
    const made = await client.audio.speech.create(slow, { signal: stop.signal });
    await made.body.getReader().read();
    stop.abort();
    expect(await leftByTheCaller(), "the provider went on");
  },
});
