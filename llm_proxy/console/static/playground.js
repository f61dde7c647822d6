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
    if (event.candidates) {
      const parts = event.candidates[0]?.content?.parts ?? [];
      return parts.map((one) => (one.functionCall ? `\n${one.functionCall.name} ${JSON.stringify(one.functionCall.args ?? {})}` : one.thought ? "" : one.text ?? "")).join("");
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

  // Whether what an event adds is a message's text: no call of a tool, no error.
  const isSpoken = (event) => {
    const called = event.choices?.[0]?.delta?.tool_calls ?? event.candidates?.[0]?.content?.parts?.some((one) => one.functionCall);
    return !called && !event.error && !event.delta?.partial_json && event.type !== "response.function_call_arguments.delta";
  };

  // The text of a whole answer, in each dialect; undefined without one.
  const wholeText = (body) => {
    const parts = body.candidates?.[0]?.content?.parts ?? body.output?.flatMap((one) => one.content ?? []) ?? body.content;
    const texts = (Array.isArray(parts) ? parts : []).filter((one) => typeof one.text === "string" && !one.thought);
    const chat = body.choices?.[0]?.message?.content ?? body.choices?.[0]?.text;
    return chat ?? (texts.length ? texts.map((one) => one.text).join("") : undefined);
  };

  // An answer that came whole joins the conversation; the field is what the form sends, with or without scripts.
  const turns = document.querySelector("#turns");
  const shown = document.querySelector("#turns-shown");
  const conversation = document.querySelector("#conversation");
  const addTurns = (prompt, text) => {
    if (!text || !turns.dataset.paths.split(" ").includes(form.elements.path.value)) {
      return;
    }
    const added = [{ role: "user", text: prompt }, { role: "assistant", text }];
    turns.value = JSON.stringify([...JSON.parse(turns.value || "[]"), ...added]);
    for (const one of added) {
      const line = document.createElement("li");
      line.className = "text";
      const who = document.createElement("strong");
      who.textContent = one.role === "user" ? "You" : "Model";
      const said = document.createElement("span");
      said.className = "pre";
      said.textContent = one.text;
      line.append(who, " ", said);
      shown.append(line);
    }
    conversation.hidden = false;
    form.elements.prompt.value = "";
    form.elements.file.value = "";
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
      link.textContent = "request details";
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
    let spoken = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return spoken;
      }
      addRaw(value);
      const lines = (unread + value).split("\n");
      unread = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:") && !line.includes("[DONE]")) {
          try {
            const event = JSON.parse(line.slice(5));
            const added = addedText(event);
            answer.append(added);
            spoken += isSpoken(event) ? added : "";
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
      return readEvents(response);
    }
    if (kind.startsWith("audio/")) {
      const audio = new Audio(URL.createObjectURL(await response.blob()));
      audio.controls = true;
      audio.setAttribute("aria-label", "The answer as audio");
      media.append(audio);
    } else {
      const whole = await response.text();
      try {
        const body = JSON.parse(whole);
        showPictures(body);
        const text = wholeText(body);
        answer.textContent = text ?? JSON.stringify(body, null, 2);
        addRaw(JSON.stringify(body, null, 2));
        return text;
      } catch {
        answer.textContent = whole;
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
      const prompt = form.elements.prompt.value;
      const response = await fetch("/playground/stream", options);
      const text = await show(response);
      if (response.ok) {
        addTurns(prompt, text);
      }
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
