"use strict";
// Selects a fork wherever it is shown, tells its account, shows what its organizer knew, and switches the time base.
// Text is only ever moved as text: nothing here writes markup. Keys: n p b k Escape, and [ ] u between pages.
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const parentOf = (path) => path.slice(0, path.lastIndexOf("/"));
  let selected = null;

  function show(base) {
    for (const one of all("[data-drawing]")) one.classList.toggle("shown", one.dataset.drawing === base);
    for (const one of all("[data-base]")) one.setAttribute("aria-pressed", String(one.dataset.base === base));
  }
  const base = () => all("[data-base]").find((one) => one.ariaPressed === "true")?.dataset.base ?? "ticks";

  function clear() {
    for (const one of all(".selected")) one.classList.remove("selected");
    for (const one of all(".later")) one.classList.remove("later");
    selected = null;
    const detail = document.getElementById("detail");
    if (detail) detail.hidden = true;
  }

  function select(path) {
    clear();
    const named = all("[data-path]").filter((one) => one.dataset.path === path && !one.matches("section"));
    if (!named.length) return;
    selected = path;
    for (const one of named) one.classList.add("selected");
    tell(path);
  }

  function tell(path) {
    const detail = document.getElementById("detail");
    const row = all("#forks tbody tr").find((one) => one.dataset.path === path);
    const section = all("section.agent").find((one) => one.dataset.path === path);
    const heading = row?.querySelector("th") ?? section?.querySelector("h3");
    const parts = [make("h3", heading ? heading.textContent : path)];
    const close = make("button", "close", { type: "button", class: "close" });
    close.addEventListener("click", clear);
    parts.push(close);
    if (row) {
      const titles = all("#forks thead th").slice(1);
      const list = make("dl", "");
      all("td", row).forEach((cell, place) => {
        const ticks = titles[place].dataset.unit === "ticks" && cell.textContent !== "–" ? " ticks" : "";
        list.append(make("dt", titles[place].textContent), make("dd", cell.textContent + ticks));
      });
      parts.push(list);
    }
    const knew = make("button", "what its organizer knew", { type: "button" });
    knew.addEventListener("click", () => know(path));
    if (all("mark.fork").some((one) => one.dataset.path === path)) parts.push(knew);
    if (section) {
      const text = make("button", "its text", { type: "button" });
      text.addEventListener("click", () => section.scrollIntoView({ block: "start" }));
      parts.push(text);
    }
    const about = make("div", "");
    about.append(...parts);
    detail.replaceChildren(about);
    detail.hidden = false;
    document.querySelector("svg .selected")?.scrollIntoView({ block: "nearest" });
  }

  // What stood in the organizer's context when the fork was complete: its own text up to there, returns among it.
  function know(path) {
    const mark = all("mark.fork").find((one) => one.dataset.path === path);
    const section = all("section.agent").find((one) => one.dataset.path === parentOf(path));
    if (!mark || !section) return;
    for (const one of all(".later")) one.classList.remove("later");
    const range = document.createRange();
    range.selectNodeContents(section.querySelector("pre"));
    range.setEndAfter(mark);
    const text = make("pre", "", { id: "knew", tabindex: "0" });
    text.append(range.cloneContents());
    const before = make("div", "");
    before.append(make("h4", "What its organizer knew"), text);
    document.getElementById("detail").firstElementChild.after(before);
    while (before.nextSibling) before.nextSibling.remove();
    text.scrollTop = text.scrollHeight;
    text.scrollIntoView({ block: "nearest" });
    for (let next = mark.nextSibling; next; next = next.nextSibling) {
      if (next.nodeType === Node.ELEMENT_NODE) next.classList.add("later");
    }
  }

  function step(by) {
    const paths = all("#forks tbody tr").map((one) => one.dataset.path);
    if (!paths.length) return;
    const place = paths.indexOf(selected);
    const next = place < 0 ? (by > 0 ? 0 : paths.length - 1) : (place + by + paths.length) % paths.length;
    select(paths[next]);
  }

  const target = (event) =>
    event.target instanceof Element && !event.target.closest("a, button:not([data-base])")
      ? event.target.closest("[data-base], tr[data-path], mark[data-path], svg [data-path]")
      : null;

  function act(one) {
    if (one.dataset.base) show(one.dataset.base);
    else select(one.dataset.path);
  }

  document.addEventListener("click", (event) => {
    const one = target(event);
    if (one) act(one);
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof Element && event.target.closest("input, textarea, select")) return;
    const one = event.key === "Enter" || event.key === " " ? target(event) : null;
    const follow = (rel) => document.querySelector(`a[rel="${rel}"]`)?.click();
    const keys = {
      n: () => step(1),
      p: () => step(-1),
      b: () => show(base() === "ticks" ? "wall" : "ticks"),
      k: () => selected && know(selected),
      Escape: clear,
      "[": () => follow("prev"),
      "]": () => follow("next"),
      u: () => follow("up"),
    };
    if (one && !one.matches("button")) act(one);
    else if (keys[event.key] && !one) keys[event.key]();
    else return;
    event.preventDefault();
  });

  // Neighbours in the order in which the run's table was shown last, where that is known.
  function reorder(nav) {
    const kept = JSON.parse(sessionStorage.getItem(`order:${nav.dataset.home}`) ?? "[]");
    const place = kept.indexOf(Number(nav.dataset.number));
    if (place < 0) return;
    for (const [rel, number] of [["prev", kept[place - 1]], ["next", kept[place + 1]]]) {
      const link = nav.querySelector(`a[rel="${rel}"]`);
      if (link && number === undefined) link.remove();
      else if (link) link.href = `${nav.dataset.home}/episodes/${number}`;
    }
  }

  document.documentElement.classList.add("scripted");
  document.addEventListener("episode", () => {
    clear();
    show("ticks");
  });
  show("ticks");
  const nav = document.querySelector("nav[data-home]");
  if (nav) reorder(nav);
})();
