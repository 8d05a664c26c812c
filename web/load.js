// The Load page: many prompts at once, and how the workers shared them.

import { counted, h, number, percent, seconds } from "./dom.js";
import { colour, Lanes } from "./chart.js";
import { Run, shares } from "./run.js";
import { wantKey } from "./settings.js";

const PROMPTS = [
  "What would you cook for six friends when two of them eat no meat?",
  "My neighbour plays the drums every evening. How do I bring it up politely?",
  "Can you explain to a child why the sky turns red at sunset?",
  "I have three days in Lisbon. What should I not miss?",
  "How do I start running when I have not done any sport for years?",
  "What is the difference between weather and climate?",
  "Tell me a short story about a lighthouse keeper and a fox.",
  "Which plants survive on a north-facing balcony?",
  "I can't fall asleep before two in the morning. What could help?",
  "How does a bicycle stay upright while it is moving?",
  "What should I ask before I rent my first flat?",
  "My grandmother turns ninety. Do you have an idea for a present?",
  "Why do cats purr, and do they only do it when they are happy?",
  "How can I learn to play chess well as an adult?",
  "What is a good way to say no to extra work without sounding rude?",
];
const JOBS_MAX = 2000;
const FAULTS_SHOWN = 8;
const DRAW_MS = 300;

let run = null;
let parts = null;
let drawn = 0;

function numeric(id, label, value, max, hint) {
  const input = h("input", { type: "number", id, min: 1, max, step: 1, value, required: true, "aria-describedby": `${id}-hint` });
  return { input, element: h("div", { class: "field" }, h("label", { for: id }, label), input, h("span", { class: "hint", id: `${id}-hint` }, hint)) };
}

export function startLoad(view) {
  const area = h("textarea", { id: "load-prompts", rows: 6, spellcheck: "false", "aria-describedby": "load-count" });
  area.value = PROMPTS.join("\n");
  const count = h("span", { class: "hint", id: "load-count" });
  const repeat = numeric("load-repeat", "Rounds", 7, 100, "times each prompt");
  const parallel = numeric("load-parallel", "At once", 105, 500, "prompts in the service");
  const longest = numeric("load-longest", "Longest reply", 64, 100000, "tokens");
  const start = h("button", { type: "submit", class: "button primary", id: "load-start" }, "Start");
  const abort = h("button", { type: "button", class: "button danger", id: "load-abort", hidden: true, onclick: () => run.abort() }, "Abort");
  const form = h("form", { class: "card load-form", onsubmit: begin },
    h("div", { class: "field" }, h("label", { for: "load-prompts" }, "Prompts, one a line"), area, count),
    h("div", { class: "fields" }, repeat.element, parallel.element, longest.element),
    h("div", { class: "row" }, start, abort));
  const result = h("div", { class: "result", id: "load-result", hidden: true });
  const nothing = h("p", { class: "card nothing hint" }, "Nothing was played yet. Here will be each worker's utilisation on one time axis, when it took which prompt, and how even the shares were.");
  view.append(h("div", { class: "page-inner" },
    h("header", { class: "page-head" }, h("h1", { id: "load-title" }, "Load"),
      h("p", { class: "hint" }, "Plays many prompts at once and draws how the workers shared them.")),
    form, nothing, result));
  parts = { area, count, repeat, parallel, longest, start, abort, form, nothing, result };
  form.addEventListener("input", showCount);
  buildResult();
  showCount();
}

const lines = () => parts.area.value.split("\n").map((line) => line.trim()).filter(Boolean);

function showCount() {
  const each = lines().length, all = each * (parts.repeat.input.valueAsNumber || 0);
  parts.count.textContent = all > JOBS_MAX ? `${number(all)} prompts are too many; at most ${number(JOBS_MAX)}.` : `${each} × ${parts.repeat.input.value || 0} = ${counted(all, "prompt")}`;
  parts.start.disabled = all === 0 || all > JOBS_MAX || (run !== null && !run.over);
}

function begin(event) {
  event.preventDefault();
  wantKey();
  const list = lines(), rounds = parts.repeat.input.valueAsNumber;
  const prompts = Array.from({ length: list.length * rounds }, (_, i) => list[i % list.length]);
  run = new Run(prompts, { parallel: parts.parallel.input.valueAsNumber, longest: parts.longest.input.valueAsNumber, onChange: change });
  parts.result.hidden = false;
  parts.nothing.hidden = true;
  parts.abort.hidden = false;
  parts.abort.focus();
  change();
}

function change() {
  if (!run.over && performance.now() - drawn < DRAW_MS) return;
  drawn = performance.now();
  show();
}

// ---- the result ----

function buildResult() {
  const bar = h("progress", { id: "load-progress", "aria-label": "Prompts that ended", max: 1, value: 0 });
  const sentence = h("p", { class: "number", id: "load-sentence", role: "status" });
  const lanes = new Lanes("Utilisation of each worker, in % of its slots");
  const body = h("tbody", {});
  const foot = h("tfoot", {});
  const columns = ["Worker", "Node", "Prompts", "Share", "Tokens", "Tokens/s", "Started", "Ended", "Used"];
  const table = h("div", { class: "card" }, h("h2", { id: "load-even" }, "How even it was"), h("p", { class: "hint", id: "load-verdict" }),
    h("div", { class: "table", tabindex: "0", role: "region", "aria-labelledby": "load-even" },
      h("table", {}, h("thead", {}, h("tr", {}, columns.map((name, i) => h("th", { scope: "col", class: i > 1 ? "end" : null }, name)))), body, foot)));
  const faults = h("div", { class: "card faults", hidden: true });
  parts.result.append(h("div", { class: "card progress" }, bar, sentence), lanes.element, table, faults);
  Object.assign(parts, { bar, sentence, lanes, body, foot, table, faults });
}

function sentence() {
  const answered = run.of("answered").length, failed = run.of("failed").length, all = run.jobs.length;
  const spent = (run.end ?? Date.now() / 1000) - run.begin;
  const parts = [`${number(answered)} of ${number(all)} answered`];
  if (failed > 0) parts.push(`${number(failed)} failed`);
  if (run.held > 0) parts.push(`the service said “later” ${counted(run.held, "time")}`);
  if (!run.over) parts.push(run.away ?? `${number(run.of("asked").length)} in the service`);
  else if (run.aborted) parts.push("aborted");
  return `${parts.join(", ")} · ${seconds(spent)}`;
}

function verdict({ workers, count, end }) {
  if (count === 0) return "Nothing was answered yet.";
  const counts = workers.map((worker) => worker.count), ends = workers.filter((worker) => worker.count > 0).map((worker) => worker.ended);
  const most = Math.max(...counts), least = Math.min(...counts);
  if (workers.length < 2) return `One worker answered ${counted(count, "prompt")} in ${seconds(end)}.`;
  return `${number(least)} to ${counted(most, "prompt")} a worker; an even share is ${number(count / workers.length, 1)}. The last worker ended ${seconds(Math.max(...ends) - Math.min(...ends))} after the first.`;
}

function show() {
  const all = shares(run);
  const ended = run.jobs.length - run.left;
  parts.bar.max = run.jobs.length;
  parts.bar.value = ended;
  parts.sentence.textContent = sentence();
  parts.abort.hidden = run.over === true;
  if (run.over && document.activeElement === document.body) parts.start.focus();
  showCount();
  parts.lanes.element.hidden = parts.table.hidden = all.count === 0;
  parts.lanes.update(all.workers.map((worker) => ({ name: worker.id, slots: worker.slots, spans: worker.spans, gpu: worker.gpu,
    short: counted(worker.count, "prompt"),
    note: worker.count === 0 ? "no prompt" : `${counted(worker.count, "prompt")}, ${seconds(worker.begun)} to ${seconds(worker.ended)}` })), all.end);
  document.getElementById("load-verdict").textContent = verdict(all);
  parts.body.replaceChildren(...all.workers.map((worker, index) => row(worker, index, all)));
  const tokens = all.workers.reduce((sum, worker) => sum + worker.tokens, 0);
  parts.foot.replaceChildren(h("tr", {}, h("th", { scope: "row" }, "All"), h("td", {}),
    [number(all.count), percent(all.count ? 1 : NaN), number(tokens), number(tokens / all.end), seconds(Math.min(...all.workers.map((worker) => worker.begun))), seconds(all.end),
      percent(all.workers.reduce((sum, worker) => sum + worker.used * worker.slots, 0) / all.workers.reduce((sum, worker) => sum + worker.slots, 0))]
      .map((text) => h("td", { class: "number end" }, text))));
  showFaults();
}

function row(worker, index, all) {
  const figures = [number(worker.count), percent(worker.count / all.count), number(worker.tokens), number(worker.count > 0 ? worker.tokens / (worker.ended - worker.begun) : NaN),
    seconds(worker.begun), seconds(worker.ended), percent(worker.used)];
  return h("tr", {},
    h("th", { scope: "row" }, h("span", { class: `swatch ${colour(index)}`, "aria-hidden": "true" }), worker.id),
    h("td", {}, worker.node), figures.map((text) => h("td", { class: "number end" }, text)));
}

function showFaults() {
  const counts = new Map();
  for (const job of run.of("failed")) counts.set(job.error ?? "failed", (counts.get(job.error ?? "failed") ?? 0) + 1);
  parts.faults.hidden = counts.size === 0;
  parts.faults.replaceChildren(h("h2", {}, "Errors"), h("ul", {}, [...counts].sort((a, b) => b[1] - a[1]).slice(0, FAULTS_SHOWN)
    .map(([text, count]) => h("li", {}, h("span", { class: "number" }, `${number(count)} × `), text))));
}
