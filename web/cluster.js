// The cluster, live: what /wyvern/status says each second, and what follows from its counters.

import { ApiError, json, service } from "./api.js";
import { become, bytes, h, number, percent, seconds } from "./dom.js";
import { axisSeconds, LineChart } from "./chart.js";

const POLL_MS = 1000;
const KEEP_S = 200;
const RATE_S = 3; // rates are over so long: workers speak once a second
const LATENCY_S = 60;
const LINES_MAX = 16; // more workers or GPUs than this are shown together
const NODES_MAX = 100;
const OLD_S = 5; // without an answer for so long the figures are not live
const LIVE = "Live, each second. Charts begin when this page is opened.";

let samples = []; // {time, status, workers: Map of id → worker}
let parts = null;
let timer = null;
let asking = false;
let heard = null; // when the last answer came

export function startCluster(view) {
  const tile = (name) => {
    const value = h("span", { class: "tile-value number" }, "–"), more = h("span", { class: "hint" }, "");
    return { element: h("div", { class: "card tile" }, h("span", { class: "tile-name" }, name), value, more), value, more };
  };
  const tiles = { workers: tile("Workers"), queue: tile("Queue"), tokens: tile("Tokens a second"), latency: tile("Latency, median") };
  const charts = {
    tokens: new LineChart("Tokens a second", {}),
    queue: new LineChart("Prompts", {}),
    busy: new LineChart("Workers busy", { most: 1, format: percent }),
    latency: new LineChart("Latency", { format: axisSeconds }),
    use: new LineChart("GPU use", { most: 1, format: percent }),
    memory: new LineChart("GPU memory", { most: 1, format: percent }),
  };
  const filter = h("input", { type: "text", id: "node-filter", placeholder: "Name of a node", spellcheck: "false", oninput: showNodes });
  const nodes = h("div", { class: "nodes" });
  const more = h("p", { class: "hint" });
  const search = h("div", { class: "field filter", hidden: true }, h("label", { for: "node-filter" }, "Show nodes"), filter);
  const hint = h("p", { class: "hint" }, LIVE);
  view.append(h("div", { class: "page-inner" },
    h("header", { class: "page-head" }, h("h1", { id: "cluster-title" }, "Cluster"), hint),
    h("div", { class: "tiles" }, Object.values(tiles).map((each) => each.element)),
    h("div", { class: "charts" }, Object.values(charts).map((each) => each.element)),
    h("h2", { class: "section" }, "Nodes"), search, nodes, more));
  parts = { tiles, charts, nodes, filter, search, more, hint };
}

export function showCluster(visible) {
  clearInterval(timer);
  if (!visible) return;
  poll();
  timer = setInterval(poll, POLL_MS);
}

async function poll() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    take(await json("/wyvern/status"));
  } catch (error) {
    if (!(error instanceof ApiError)) service.dispatchEvent(new Event("doubt"));
  } finally {
    asking = false;
  }
  const silent = heard === null ? 0 : Math.round((performance.now() - heard) / 1000);
  parts.hint.textContent = silent >= OLD_S ? `No answer for ${seconds(silent)}: what stands here was then.` : LIVE;
}

function take(status) {
  heard = performance.now();
  const workers = new Map(status.nodes.flatMap((node) => node.workers.map((worker) => [worker.id, { ...worker, node: node.name }])));
  samples.push({ time: status.time, status, workers });
  samples = samples.filter((sample) => sample.time > status.time - KEEP_S && sample.time <= status.time);
  show();
}

// ---- what follows from two samples ----

// The sample that is at least so many seconds older than samples[index].
function before(index, span) {
  let at = index;
  while (at > 0 && samples[at].time > samples[index].time - span + 0.2) at--;
  return samples[at];
}

// How much a counter of a worker grew each second; NaN: not known.
function rate(index, id, field) {
  const now = samples[index], old = before(index, RATE_S);
  const a = old.workers.get(id), b = now.workers.get(id), span = b?.heard_at - a?.heard_at;
  if (!a || !b || a.pid !== b.pid || !(span > 0.2) || typeof b[field] !== "number") return NaN;
  return Math.max(0, b[field] - a[field]) / span;
}

function total(index, field) {
  let sum = NaN;
  for (const id of samples[index].workers.keys()) {
    const value = rate(index, id, field);
    if (Number.isFinite(value)) sum = (Number.isFinite(sum) ? sum : 0) + value;
  }
  return sum;
}

// A quantile of the requests that ended in the last minute, from the histograms' growth.
function latency(index, share) {
  const now = samples[index], old = before(index, LATENCY_S), bounds = now.status.latency_bounds;
  const counts = new Array(bounds.length + 1).fill(0);
  for (const [id, worker] of now.workers) {
    const earlier = old.workers.get(id);
    const base = earlier?.pid === worker.pid ? earlier.latency.counts : worker.latency.counts;
    worker.latency.counts.forEach((count, i) => {
      counts[i] += Math.max(0, count - base[i]);
    });
  }
  const all = counts.reduce((a, b) => a + b, 0);
  if (all === 0) return NaN;
  let left = all * share;
  for (let i = 0; i < counts.length; i++) {
    if (left <= counts[i] && counts[i] > 0) {
      const low = i > 0 ? bounds[i - 1] : 0, high = bounds[i] ?? bounds.at(-1);
      return low + (high - low) * left / counts[i];
    }
    left -= counts[i];
  }
  return bounds.at(-1);
}

// ---- showing ----

function show() {
  const last = samples.length - 1, { status, workers } = samples[last];
  showTiles(status, [...workers.values()], last);
  showCharts(status, [...workers.keys()], last);
  showNodes();
}

function showTiles(status, workers, last) {
  const { tiles } = parts;
  const ready = workers.filter((worker) => worker.state === "ready");
  const active = ready.reduce((sum, worker) => sum + worker.active, 0);
  const slots = ready.reduce((sum, worker) => sum + worker.slots, 0);
  tiles.workers.value.textContent = `${ready.length} / ${workers.length}`;
  tiles.workers.more.textContent = `ready, on ${status.nodes.length} ${status.nodes.length === 1 ? "node" : "nodes"}; ${active} of ${slots} slots in use`;
  tiles.queue.value.textContent = status.queue.waiting === null ? "–" : number(status.queue.waiting);
  tiles.queue.more.textContent = status.queue.waiting === null ? "the broker is away" : `waiting; ${number(status.queue.in_flight)} in work`;
  tiles.tokens.value.textContent = number(total(last, "tokens"));
  tiles.tokens.more.textContent = `${number(workers.reduce((sum, worker) => sum + worker.tokens, 0))} since the workers started`;
  tiles.latency.value.textContent = seconds(latency(last, 0.5));
  tiles.latency.more.textContent = Number.isFinite(latency(last, 0.95)) ? `95 % within ${seconds(latency(last, 0.95))}, last minute` : "no reply in the last minute";
}

function showCharts(status, ids, last) {
  const { charts } = parts, times = samples.map((sample) => sample.time);
  const all = (fn) => samples.map((_, index) => fn(index));
  const lines = (field) => (ids.length > LINES_MAX ? [] : ids.map((id) => ({ name: id, values: all((index) => rate(index, id, field)) })));
  const each = lines("tokens");
  charts.tokens.update(times, each.length > 1 ? each : [{ name: "all", values: all((index) => total(index, "tokens")) }],
    number(total(last, "tokens")));
  charts.queue.update(times, [
    { name: "waiting", values: samples.map((sample) => sample.status.queue.waiting ?? NaN) },
    { name: "in work", values: samples.map((sample) => sample.status.queue.in_flight ?? NaN) },
  ], `${number(status.queue.waiting)} waiting, ${number(status.queue.in_flight)} in work`);
  const busy = lines("busy_s"), share = total(last, "busy_s") / ids.length;
  charts.busy.update(times, busy.length > 0 ? busy : [{ name: "all", values: all((index) => total(index, "busy_s") / samples[index].workers.size) }],
    Number.isFinite(share) ? percent(Math.min(1, share)) : "–");
  charts.latency.update(times, [
    { name: "median", values: all((index) => latency(index, 0.5)) },
    { name: "95th percentile", values: all((index) => latency(index, 0.95)) },
  ], seconds(latency(last, 0.5)));
  showDevices(times);
}

// GPUs; where there are none, what the nodes' CPUs and memory do.
function showDevices(times) {
  const { use, memory } = parts.charts, { status } = samples.at(-1);
  const gpus = status.nodes.flatMap((node) => node.gpus.map((gpu) => [node.name, gpu.index]));
  const kind = gpus.length > 0 ? "GPU" : "CPU";
  const find = gpus.length > 0
    ? (sample, [name, index]) => sample.status.nodes.find((node) => node.name === name)?.gpus.find((gpu) => gpu.index === index)
    : (sample, [name]) => sample.status.nodes.find((node) => node.name === name)?.host;
  const wanted = (gpus.length > 0 ? gpus : status.nodes.map((node) => [node.name])).slice(0, LINES_MAX);
  const busyOf = (device) => (kind === "GPU" ? device?.busy : device?.cpu_busy) ?? NaN;
  const fullOf = (device) => device?.memory_used / device?.memory_total;
  for (const [chart, title, figure] of [[use, `${kind} use`, busyOf], [memory, kind === "GPU" ? "GPU memory" : "Memory of the nodes", fullOf]]) {
    chart.title = title;
    chart.element.querySelector("figcaption span").textContent = title;
    const series = wanted.map((key) => ({ name: kind === "GPU" ? `${key[0]} gpu${key[1]}` : key[0], values: samples.map((sample) => figure(find(sample, key))) }));
    const known = series.map(({ values }) => values.at(-1)).filter(Number.isFinite);
    chart.update(times, series, known.length > 0 ? percent(known.reduce((a, b) => a + b, 0) / known.length) : "–");
  }
}

function doing(worker, index) {
  if (worker.state === "loading") return "Loads its model";
  if (worker.state === "draining") return "Finishes, then leaves";
  if (worker.state !== "ready") return worker.state;
  if (worker.active === 0) return "Idle";
  const reads = rate(index, worker.id, "prefill_s"), writes = rate(index, worker.id, "decode_s");
  const replies = `${worker.active} ${worker.active === 1 ? "reply" : "replies"}`;
  return `${reads > writes ? "Reads prompts of" : "Writes"} ${replies}${worker.waiting > 0 ? `, ${worker.waiting} held` : ""}`;
}

function workerRow(worker) {
  const last = samples.length - 1, busy = rate(last, worker.id, "busy_s");
  const bar = h("span", { class: "meter", role: "img", "aria-label": `${worker.active} of ${worker.slots} slots in use` },
    Array.from({ length: Math.min(worker.slots, 32) }, (_, i) => h("span", { class: i < worker.active ? "on" : null })));
  return h("tr", {},
    h("th", { scope: "row" }, worker.id),
    h("td", {}, worker.device),
    h("td", {}, h("span", { class: "doing" }, h("span", { class: `dot ${worker.state === "ready" ? (worker.active > 0 ? "good" : "") : "warn"}`, "aria-hidden": "true" }), doing(worker, last))),
    h("td", {}, bar),
    h("td", { class: "number end" }, percent(Math.min(1, busy))),
    h("td", { class: "number end" }, number(rate(last, worker.id, "tokens"))),
    h("td", { class: "number end" }, number(worker.prompts)),
    h("td", { class: "number end" }, number(worker.failed)));
}

function deviceFacts(node) {
  const facts = node.gpus.map((gpu) => [`gpu${gpu.index} ${gpu.name}`, percent(gpu.busy),
    gpu.memory_total ? `${bytes(gpu.memory_used)} of ${bytes(gpu.memory_total)}` : null,
    gpu.power_w !== undefined ? `${number(gpu.power_w)} W` : null,
    gpu.temperature_c !== undefined ? `${number(gpu.temperature_c)} °C` : null].filter(Boolean).join(" · "));
  if (node.host.memory_total) {
    facts.push(`CPU ${percent(node.host.cpu_busy)} · memory ${bytes(node.host.memory_used)} of ${bytes(node.host.memory_total)}`);
  }
  return facts;
}

function nodeCard(node) {
  const columns = ["Worker", "Device", "Now", "Slots", "Busy", "Tokens/s", "Prompts", "Failed"];
  return h("section", { class: "card node", "aria-label": `Node ${node.name}` },
    h("header", {}, h("h3", {}, node.name), h("span", { class: "hint" }, node.address),
      h("ul", { class: "device-facts number" }, deviceFacts(node).map((fact) => h("li", {}, fact)))),
    node.workers.length === 0 ? h("p", { class: "hint" }, "No worker yet.")
      : h("div", { class: "table", tabindex: "0", role: "region", "aria-label": `Workers of ${node.name}` },
        h("table", {}, h("thead", {}, h("tr", {}, columns.map((name, i) => h("th", { scope: "col", class: i > 3 ? "end" : null }, name)))),
          h("tbody", {}, node.workers.map(workerRow)))));
}

function showNodes() {
  const { nodes: all } = samples.at(-1)?.status ?? { nodes: [] };
  const word = parts.filter.value.trim().toLowerCase();
  const wanted = all.filter((node) => node.name.toLowerCase().includes(word));
  parts.search.hidden = all.length < 5;
  parts.more.textContent = wanted.length > NODES_MAX ? `${wanted.length - NODES_MAX} more nodes are not shown.`
    : wanted.length === 0 ? (word ? "No node has such a name." : "No node has joined yet.") : "";
  become(parts.nodes, h("div", { class: "nodes" }, wanted.slice(0, NODES_MAX).map(nodeCard)));
}
