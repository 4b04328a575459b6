"use strict";
// The table of a run's episodes: fetched piece by piece, filtered and sorted here, written as text only.
// Keys: / filters, j k move, Enter opens.
(() => {
  const PAGE = 300;
  const table = document.getElementById("episodes");
  const body = table.tBodies[0];
  const form = document.getElementById("filter");
  const told = document.getElementById("told");
  const more = document.getElementById("more");
  const home = table.dataset.home;
  const lines = [];
  let shown = [];
  let begun = false;
  let room = PAGE;
  let current = -1;
  let order = { key: "number", down: false };

  const columns = [
    { key: "number", title: "#" },
    { key: "arm", title: "arm", words: true },
    { key: "problem", title: "problem", words: true, spare: true },
    { key: "query", title: "question", words: true },
    { key: "score", title: "score", text: (one) => (one.score === null ? "–" : one.score.toFixed(2)) },
    { key: "critical_path", title: "T", text: (one) => one.critical_path.toLocaleString("en") },
    { key: "concurrency", title: "eta/c", text: (one) => `${(100 * one.concurrency).toFixed(1)} %` },
    { key: "forks", title: "forks" },
    { key: "tokens", title: "tokens", text: (one) => one.tokens.toLocaleString("en") },
    { key: "wall_seconds", title: "wall, s", text: (one) => one.wall_seconds.toFixed(2) },
    { key: "stop_reason", title: "ended by", words: true },
    { key: "format_errors", title: "format errors", words: true, spare: true, text: (one) => one.format_errors.join(", ") },
  ];
  // A spare column is left out where no episode has anything to say in it.
  const used = () => columns.filter((one) => !one.spare || lines.some((line) => line[one.key].length));
  const kinds = {
    all: () => true,
    right: (one) => one.score === 1,
    partly: (one) => one.score !== null && one.score > 0 && one.score < 1,
    wrong: (one) => one.score === 0,
    unanswered: (one) => one.stop_reason !== "answer",
    errors: (one) => one.format_errors.length > 0,
  };

  const make = (name, text) => {
    const element = document.createElement(name);
    element.textContent = text;
    return element;
  };

  function head() {
    const row = document.createElement("tr");
    for (const column of used()) {
      const cell = document.createElement("th");
      cell.scope = "col";
      if (column.words) cell.className = "words";
      const sorted = column.key === order.key;
      if (sorted) cell.ariaSort = order.down ? "descending" : "ascending";
      const button = make("button", column.title + (sorted ? (order.down ? " ▾" : " ▴") : ""));
      button.type = "button";
      button.addEventListener("click", () => {
        order = { key: column.key, down: sorted ? !order.down : false };
        draw();
      });
      cell.append(button);
      row.append(cell);
    }
    table.tHead.replaceChildren(row);
  }

  function chosen() {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const arm = form.elements.arm.value;
    const kind = kinds[form.elements.kind.value] ?? kinds.all;
    const found = lines.filter((one) => {
      if (!kind(one) || (arm && one.arm !== arm)) return false;
      const text = `${one.id} ${one.arm} ${one.problem} ${one.query} ${one.stop_reason} ${one.format_errors.join(" ")}`;
      return words.every((word) => text.toLowerCase().includes(word));
    });
    const value = (one) => (order.key === "format_errors" ? one.format_errors.join() : one[order.key]);
    found.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const less = x === null ? (y === null ? 0 : -1) : y === null ? 1 : x < y ? -1 : x > y ? 1 : 0;
      return (order.down ? -less : less) || a.number - b.number;
    });
    return found;
  }

  function row(one, place, among) {
    const element = document.createElement("tr");
    element.classList.toggle("current", place === current);
    among.forEach((column, index) => {
      const cell = document.createElement(index ? "td" : "th");
      if (column.words) cell.className = "words";
      const text = column.text ? column.text(one) : String(one[column.key]);
      if (index) cell.textContent = text;
      else {
        const link = make("a", text);
        link.href = `${home}/episodes/${one.number}`;
        cell.append(link);
      }
      element.append(cell);
    });
    element.addEventListener("click", (event) => {
      if (!event.target.closest("a")) open(one);
    });
    return element;
  }

  function remember() {
    const values = Object.fromEntries(new FormData(form));
    const state = { ...values, sort: order.key, down: order.down ? "1" : "" };
    history.replaceState(null, "", `#${new URLSearchParams(state)}`);
    sessionStorage.setItem(`order:${home}`, JSON.stringify(shown.map((one) => one.number)));
  }

  function draw() {
    shown = chosen();
    head();
    const among = used();
    body.replaceChildren(...shown.slice(0, room).map((one, place) => row(one, place, among)));
    const scores = shown.map((one) => one.score).filter((score) => score !== null);
    const mean = scores.length ? `, mean score ${(scores.reduce((a, b) => a + b, 0) / scores.length).toFixed(3)}` : "";
    told.textContent = !begun ? "reading" : `${shown.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")} episodes${mean}`;
    more.hidden = shown.length <= room;
    remember();
  }

  function open(one) {
    location.href = `${home}/episodes/${one.number}`;
  }

  function move(by) {
    if (!shown.length) return;
    current = Math.min(Math.max(current + by, 0), Math.min(shown.length, room) - 1);
    [...body.rows].forEach((element, place) => element.classList.toggle("current", place === current));
    body.rows[current].scrollIntoView({ block: "nearest" });
  }

  function arms() {
    const known = new Set([...form.elements.arm.options].map((option) => option.value));
    for (const arm of new Set(lines.map((one) => one.arm))) {
      if (!known.has(arm)) {
        const option = make("option", arm);
        option.value = arm;
        form.elements.arm.append(option);
      }
    }
  }

  async function fetched() {
    const answer = await fetch(`${home}/lines?from=${lines.length}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const found = await answer.json();
    if (found.lines.length || !begun) {
      begun = true;
      lines.push(...found.lines);
      arms();
      draw();
    }
    document.getElementById("broken").textContent = found.broken;
    return found.all;
  }

  async function follow() {
    try {
      while (!(await fetched()));
      setTimeout(follow, document.hidden ? 15000 : 3000);
    } catch (error) {
      document.getElementById("broken").textContent = `nothing new comes: ${error.message}`;
    }
  }

  const state = new URLSearchParams(location.hash.slice(1));
  form.elements.words.value = state.get("words") ?? "";
  if (state.get("kind") in kinds) form.elements.kind.value = state.get("kind");
  if (state.get("arm")) {
    const option = make("option", state.get("arm"));
    option.value = state.get("arm");
    form.elements.arm.append(option);
    form.elements.arm.value = option.value;
  }
  if (columns.some((column) => column.key === state.get("sort"))) {
    order = { key: state.get("sort"), down: Boolean(state.get("down")) };
  }
  form.addEventListener("input", () => {
    room = PAGE;
    current = -1;
    draw();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    room += PAGE;
    draw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const keys = {
      "/": () => form.elements.words.focus(),
      j: () => move(1),
      k: () => move(-1),
      Enter: () => current >= 0 && !event.target.closest("a, button") && open(shown[current]),
    };
    if (!keys[event.key] || (event.key === "Enter" && event.target.closest("a, button"))) return;
    keys[event.key]();
    event.preventDefault();
  });
  draw();
  follow();
})();
