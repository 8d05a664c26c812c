// Playing many prompts: so many at a time, each a detached reply that is asked after until it ended.
// (A browser lets six connections to a host stay open, so replies can't be streams here.)

import { ApiError, Away, backoff, call, json, pause } from "./api.js";
import { asParameters } from "./settings.js";
import { newId } from "./store.js";

const POLL_MS = 250;
const LINES = 3; // calls at once
const ASKED_AFTER = 30; // of those that wait longest, in one round
const ENDED = new Set(["completed", "incomplete", "failed", "cancelled"]);

// Runs fn over items, at most so many at once.
async function together(items, fn) {
  const list = items.values();
  const one = async () => {
    for (const item of list) await fn(item);
  };
  await Promise.all(Array.from({ length: LINES }, one));
}

export class Run {
  // onChange: something is other than before; done: a promise of the end.
  constructor(prompts, { parallel, longest, onChange }) {
    Object.assign(this, { parallel, longest, onChange });
    this.jobs = prompts.map((text, i) => ({ text, user: `prompter-${i + 1}`, state: "waiting", key: `load-${newId()}${newId()}` }));
    this.stopped = new AbortController();
    this.held = 0; // times that the service said "later"
    this.gpus = new Map(); // name → [[time, share]…]
    this.begin = Date.now() / 1000;
    this.slots = new Map(); // of each worker that was seen: {node, slots, device}
    this.away = null; // why the service is not reached
    addEventListener("pagehide", () => this.eraseNow(), { signal: this.stopped.signal });
    this.done = this.play();
  }

  of(state) {
    return this.jobs.filter((job) => job.state === state);
  }

  get left() {
    return this.of("waiting").length + this.of("asked").length;
  }

  async play() {
    await this.look();
    const watching = setInterval(() => this.look(), 1000);
    while (this.left > 0 && !this.stopped.signal.aborted) {
      await this.askMore();
      if (this.stopped.signal.aborted) break;
      await together(this.of("asked").slice(0, ASKED_AFTER), (job) => this.askAfter(job));
      this.onChange();
      if (this.left > 0) await pause(POLL_MS, this.stopped.signal, true);
    }
    clearInterval(watching);
    for (const job of this.of("waiting")) job.state = "aborted";
    for (const job of this.of("asked")) job.state = "aborted";
    this.end = Date.now() / 1000;
    this.over = true;
    this.onChange();
    await together(this.jobs.filter((job) => job.id), (job) => this.erase(job));
    this.stopped.abort();
  }

  abort() {
    this.aborted = true;
    this.stopped.abort();
  }

  // What GPUs do meanwhile, and how many slots each worker has.
  async look() {
    try {
      const status = await json("/wyvern/status");
      for (const node of status.nodes) {
        for (const { id, slots, device } of node.workers) this.slots.set(id, { node: node.name, slots, device });
        for (const gpu of node.gpus) {
          const name = `${node.name} gpu:${gpu.index}`;
          if (!this.gpus.has(name)) this.gpus.set(name, []);
          if (gpu.busy !== undefined) this.gpus.get(name).push([status.time, gpu.busy]);
        }
      }
    } catch {
      // the next second, perhaps
    }
  }

  async askMore() {
    const room = this.parallel - this.of("asked").length;
    this.later = 0;
    await together(this.of("waiting").slice(0, room), (job) => this.ask(job));
    if (this.later > 0) await pause(this.later, this.stopped.signal, true);
  }

  async ask(job) {
    if (this.later > 0 || this.stopped.signal.aborted) return;
    const body = { ...asParameters(), input: job.text, user: job.user, background: true, store: true };
    if (this.longest) body.max_output_tokens = this.longest;
    try {
      job.id = (await json("/v1/responses", { method: "POST", body, headers: { "Idempotency-Key": job.key } })).id;
      job.state = "asked";
      this.away = null;
    } catch (error) {
      this.fault(job, error);
    }
  }

  async askAfter(job) {
    if (this.stopped.signal.aborted) return;
    try {
      const response = await json(`/v1/responses/${job.id}`);
      this.away = null;
      if (!ENDED.has(response.status)) return;
      job.state = response.status === "failed" || response.status === "cancelled" ? "failed" : "answered";
      job.error = response.error?.message ?? (response.status === "cancelled" ? "It was cancelled." : null);
      job.worker = response.wyvern?.inference_worker;
      job.node = response.wyvern?.node;
      job.started = response.wyvern?.started_at;
      job.finished = response.wyvern?.finished_at;
      job.accepted = response.wyvern?.accepted_at;
      job.tokens = response.usage?.output_tokens ?? 0;
    } catch (error) {
      this.fault(job, error);
    }
  }

  fault(job, error) {
    if (error instanceof ApiError && (error.status === 429 || error.status === 503)) {
      this.held++;
      this.later = Math.max(this.later, error.retryAfter ? error.retryAfter * 1000 : backoff(1));
    } else if (error instanceof Away || error.status === 401 || error.status >= 502) {
      this.away = error.status === 401 ? "waiting for a key" : "the service can't be reached; trying again";
      this.later = Math.max(this.later, 1500);
    } else {
      job.state = "failed";
      job.error = error.message;
    }
    this.onChange();
  }

  // The service need not keep them; those that still run end.
  async erase(job) {
    try {
      await call(`/v1/responses/${job.id}`, { method: "DELETE" });
    } catch {
      // it forgets them by itself, later
    }
  }

  eraseNow() {
    for (const job of this.of("asked")) call(`/v1/responses/${job.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
    this.abort(); // a browser may show this page again as it was
  }
}

// ---- how even it was ----

export function shares(run) {
  const { slots } = run;
  const answered = run.of("answered").filter((job) => job.finished >= job.started);
  const from = Math.min(...answered.map((job) => job.accepted ?? job.started), run.begin);
  const workers = new Map([...slots].map(([id, { node }]) => [id, { id, node, jobs: [] }]));
  for (const job of answered) {
    if (!workers.has(job.worker)) workers.set(job.worker, { id: job.worker, node: job.node, jobs: [] });
    workers.get(job.worker).jobs.push(job);
  }
  const end = Math.max(0, ...answered.map((job) => job.finished - from));
  return {
    from, end, count: answered.length,
    workers: [...workers.values()].sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true })).map(({ id, node, jobs }) => {
      const spans = jobs.map((job) => [job.started - from, job.finished - from]);
      const room = slots.get(id)?.slots ?? 1;
      const tokens = jobs.reduce((sum, job) => sum + job.tokens, 0);
      const begun = Math.min(...spans.map(([at]) => at)), ended = Math.max(...spans.map(([, at]) => at));
      const used = spans.reduce((sum, [a, b]) => sum + b - a, 0) / room;
      const gpu = run.gpus.get(`${node} ${slots.get(id)?.device ?? ""}`)?.map(([time, share]) => [time - from, share]).filter(([time]) => time >= 0 && time <= end);
      return { id, node, count: jobs.length, spans, slots: room, tokens, begun, ended, used: end > 0 ? Math.min(1, used / end) : 0, gpu };
    }),
  };
}
