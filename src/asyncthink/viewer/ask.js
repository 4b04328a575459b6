"use strict";
// Asks the server a question and shows how its organization grows; once it is over, the episode's own page takes its place.
// What the server draws is parsed as a document of its own, whose scripts never run, and moved here.
(() => {
  const form = document.getElementById("ask");
  const live = document.getElementById("live");
  const told = document.getElementById("asked");
  const stop = document.getElementById("stop");
  const think = form.querySelector("[type=submit]");
  let running = null;

  function put(markup) {
    const found = new DOMParser().parseFromString(markup, "text/html").body;
    live.replaceChildren(...[...found.childNodes].map((one) => document.adoptNode(one)));
  }

  function take(line) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") return;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new Error(chunk.error.message);
    const extension = chunk.asyncthink;
    if (extension?.drawing) put(extension.drawing);
    if (extension?.page) {
      put(extension.page);
      document.dispatchEvent(new Event("episode"));
    }
  }

  async function ask() {
    const capacity = Number(form.elements.capacity.value);
    const wish = { view: true, ...(capacity ? { capacity } : {}) };
    const body = {
      model: form.elements.model.value,
      messages: [{ role: "user", content: form.elements.question.value }],
      stream: true,
      asyncthink: wish,
    };
    running = new AbortController();
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: running.signal,
    });
    if (!answer.ok) {
      const refused = await answer.json();
      throw new Error(refused.error?.message ?? `the server answered ${answer.status}`);
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      lines.forEach(take);
    }
  }

  async function submit(event) {
    event.preventDefault();
    if (running) return;
    stop.hidden = false;
    think.disabled = true;
    live.replaceChildren();
    told.textContent = "thinking";
    told.classList.remove("loud");
    try {
      await ask();
      told.textContent = "";
    } catch (error) {
      told.textContent = error.name === "AbortError" ? "stopped" : error.message;
      told.classList.toggle("loud", error.name !== "AbortError");
    } finally {
      running = null;
      stop.hidden = true;
      think.disabled = false;
    }
  }

  form.addEventListener("submit", submit);
  stop.addEventListener("click", () => running?.abort());
  form.elements.question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();
