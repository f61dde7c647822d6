// Calls the playground's model and shows the answer as it arrives. Without scripts the same form posts to the
// same page. The key stays in the console: the browser talks to the console alone.
"use strict";

(() => {
  const form = document.querySelector("#playground");
  const answer = document.querySelector("#answer");
  const raw = document.querySelector("#raw");
  const media = document.querySelector("#media");
  const status = document.querySelector("#status");
  const stop = document.querySelector("#stop");
  const MAX_RAW = 200_000;
  let running = null;

  // The text that an event of a stream adds, in each dialect.
  const addedText = (event) => {
    if (event.type === "response.output_text.delta" || event.type === "transcript.text.delta") {
      return event.delta;
    }
    if (event.type === "content_block_delta") {
      return event.delta.text ?? event.delta.partial_json ?? "";
    }
    if (event.type === "response.function_call_arguments.delta") {
      return event.delta;
    }
    const choice = event.choices && event.choices[0];
    if (!choice) {
      return event.error ? `\n${event.error.message}` : "";
    }
    const delta = choice.delta ?? {};
    const tools = (delta.tool_calls ?? []).map(
      (one) => (one.function?.name ? `\n${one.function.name} ` : "") + (one.function?.arguments ?? ""),
    );
    return (choice.text ?? "") + (delta.content ?? "") + tools.join("");
  };

  const showPictures = (body) => {
    for (const one of body.data ?? []) {
      if (one && one.b64_json) {
        const image = new Image();
        image.alt = "A picture of the answer";
        image.src = `data:image/png;base64,${one.b64_json}`;
        media.append(image);
        one.b64_json = `(${one.b64_json.length} characters)`;
      }
    }
  };

  const showHead = (response) => {
    status.replaceChildren();
    const badge = document.createElement("span");
    badge.className = `badge ${response.ok ? "good" : "bad"}`;
    badge.textContent = String(response.status);
    status.append(badge);
    for (const [name, label] of [["x-llm-proxy-model", "model"], ["x-llm-proxy-provider", "provider"], ["x-llm-proxy-cost-usd", "$"]]) {
      const value = response.headers.get(name);
      if (value) {
        status.append(` ${label} ${value}`);
      }
    }
    const id = response.headers.get("x-request-id");
    if (id) {
      const link = document.createElement("a");
      link.href = `/requests/${encodeURIComponent(id)}`;
      link.textContent = "its story";
      status.append(" ", link);
    }
  };

  const addRaw = (text) => {
    if (raw.textContent.length < MAX_RAW) {
      raw.append(text.slice(0, MAX_RAW));
    }
  };

  const readEvents = async (response) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let unread = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      addRaw(value);
      const lines = (unread + value).split("\n");
      unread = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:") && !line.includes("[DONE]")) {
          try {
            const event = JSON.parse(line.slice(5));
            answer.append(addedText(event));
            if (event.b64_json) {
              showPictures({ data: [event] });
            }
          } catch {
            // A line that is no JSON stands with the answer as it came.
          }
        }
      }
    }
  };

  const show = async (response) => {
    showHead(response);
    const kind = response.headers.get("content-type") ?? "";
    if (kind.startsWith("text/event-stream")) {
      await readEvents(response);
    } else if (kind.startsWith("audio/")) {
      const audio = new Audio(URL.createObjectURL(await response.blob()));
      audio.controls = true;
      audio.setAttribute("aria-label", "The answer as audio");
      media.append(audio);
    } else {
      const text = await response.text();
      try {
        const body = JSON.parse(text);
        showPictures(body);
        const chat = body.choices && (body.choices[0].message?.content ?? body.choices[0].text);
        answer.textContent = chat ?? JSON.stringify(body, null, 2);
        addRaw(JSON.stringify(body, null, 2));
      } catch {
        answer.textContent = text;
      }
    }
  };

  const call = async () => {
    running?.abort();
    running = new AbortController();
    answer.textContent = "";
    raw.textContent = "";
    media.replaceChildren();
    status.textContent = "calling";
    stop.disabled = false;
    try {
      const options = { method: "POST", body: new FormData(form), signal: running.signal };
      await show(await fetch("/playground/stream", options));
    } catch (fault) {
      status.append(fault.name === "AbortError" ? " stopped" : " the connection broke");
    } finally {
      stop.disabled = true;
    }
  };

  // The list of models is that of the endpoint; a model that does not serve it gives way to one that does.
  const path = form.elements.path;
  const model = form.elements.model;
  const list = document.querySelector("#models");
  const models = [...list.options].map((one) => ({ name: one.value, paths: one.dataset.paths.split(" ") }));
  const offerModels = () => {
    const serving = models.filter((one) => one.paths.includes(path.value)).map((one) => one.name);
    list.replaceChildren(
      ...serving.map((name) => Object.assign(document.createElement("option"), { value: name })),
    );
    if (models.some((one) => one.name === model.value) && !serving.includes(model.value)) {
      model.value = serving[0] ?? "";
    }
  };
  path.addEventListener("change", offerModels);
  offerModels();

  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit(document.querySelector("#call"));
    }
  });

  stop.addEventListener("click", () => running?.abort());
  form.addEventListener("submit", (event) => {
    if (event.submitter === null || event.submitter.value === "call") {
      event.preventDefault();
      call();
    }
  });
})();
