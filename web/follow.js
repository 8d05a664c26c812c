// One reply from its asking to its end, whatever happens to the network, the gateway or this page.
//
// The reply is detached (background), so it goes on without us.  It is asked for with an
// Idempotency-Key: asking again is safe, also when we never heard whether the first time arrived.
// Once its id is known it is followed by GET …?stream=true&starting_after=N; N is kept with the text
// that was shown, so nothing is shown twice and nothing is missed.

import { ApiError, Away, backoff, call, events, json, pause, service } from "./api.js";

const SILENT_MS = 5000; // then a person is told that nothing comes
const DEAD_MS = 40000; // the gateway sends a comment each 15 s: the connection is dead
const TRIES_MAX = 8; // of errors that may pass (5xx)

const WAITABLE = new Set([429, 503]);
const PASSING = new Set([500, 502, 504]);

export class Follower {
  // node: the message of the store; onText after more text, onPhase when what it does changes,
  // onEnd at its end (node.status is then done, cut, stopped or failed).
  constructor(node, { onText, onPhase, onEnd }) {
    Object.assign(this, { node, onText, onPhase, onEnd });
    this.left = new AbortController();
    this.phase = { name: "asking" };
    this.heard = performance.now();
    this.wantsStop = false;
    this.timer = setInterval(() => this.watch(), 1000);
    this.run();
  }

  get ended() {
    return this.node.status !== "running";
  }

  say(name, more = {}) {
    this.phase = { name, ...more };
    this.onPhase(this.phase);
  }

  // Leaves the reply to itself.
  leave() {
    clearInterval(this.timer);
    this.left.abort();
    this.connection?.abort();
  }

  end(status, more = {}) {
    if (this.ended) return;
    Object.assign(this.node, more, { status });
    delete this.node.request;
    this.leave();
    this.onEnd(this.node);
  }

  watch() {
    const silent = performance.now() - this.heard;
    if (!this.reading) return;
    if (silent > DEAD_MS) {
      this.broken = true;
      this.connection.abort();
    } else if (performance.now() - this.moved > SILENT_MS) {
      this.onPhase({ ...this.phase, silent: Math.round((performance.now() - this.moved) / 1000) });
    }
  }

  async run() {
    this.attempt = 0;
    while (!this.left.signal.aborted) {
      try {
        await this.read();
        if (!this.ended && !this.left.signal.aborted) throw new Away("The stream ended too early.");
      } catch (error) {
        if (this.left.signal.aborted) return;
        await this.recover(error);
      }
    }
  }

  async read() {
    const { node } = this;
    this.connection = new AbortController();
    this.broken = false;
    const { signal } = this.connection;
    this.heard = this.moved = performance.now();
    this.reading = true; // from here on: also a connection that never answers is dead one day
    try {
      const response = node.responseId
        ? await call(`/v1/responses/${node.responseId}?stream=true&starting_after=${node.seq}`, { signal })
        : await call("/v1/responses", { method: "POST", body: node.request, signal,
          headers: { "Idempotency-Key": node.key } });
      this.heard = this.moved = performance.now();
      if (node.text) this.say("writing");
      for await (const { data } of events(response)) {
        this.heard = performance.now();
        if (data) this.take(data);
        if (this.ended || this.left.signal.aborted) return;
      }
    } finally {
      this.reading = false;
      this.connection.abort();
    }
  }

  take(data) {
    const { node } = this;
    this.moved = performance.now();
    this.attempt = 0;
    if (data.response?.id && !node.responseId) {
      node.responseId = data.response.id;
      this.onText();
      if (this.wantsStop) this.cancel();
    }
    const number = data.sequence_number;
    if (typeof number === "number") {
      if (number <= node.seq) return;
      node.seq = number;
    }
    switch (data.type) {
      case "response.created":
      case "response.queued":
        this.say("queued");
        break;
      case "response.in_progress":
        this.say("reading");
        break;
      case "response.output_text.delta":
        node.text += data.delta;
        if (this.phase.name !== "writing") this.say("writing");
        this.onText();
        break;
      case "response.completed":
      case "response.incomplete":
      case "response.failed":
      case "response.cancelled":
        this.finish(data.response);
        break;
      case "error":
        this.end("failed", { error: data.message ?? data.error?.message ?? "The reply failed." });
        break;
    }
  }

  // A response object that ended: what it says goes before what was streamed.
  finish(response) {
    const text = textOf(response);
    const more = { wyvern: response.wyvern ?? null, usage: response.usage ?? null };
    if (text !== "") more.text = text;
    if (response.status === "completed") this.end("done", more);
    else if (response.status === "cancelled") this.end("stopped", more);
    else if (response.status === "incomplete") this.end("cut", more);
    else this.end("failed", { ...more, error: response.error?.message ?? "The reply failed." });
  }

  async recover(error) {
    const { signal } = this.left;
    if (error instanceof ApiError && error.status === 401) {
      if (this.wantsStop && !this.node.responseId) return this.end("stopped"); // it was not taken
      this.say("key");
      await new Promise((resolve) => {
        service.addEventListener("key", resolve, { once: true, signal });
        signal.addEventListener("abort", resolve, { once: true });
      });
    } else if (error instanceof ApiError && WAITABLE.has(error.status)) {
      await this.wait(error.retryAfter ? error.retryAfter * 1000 : backoff(this.attempt++), "busy", error.message, true);
    } else if (error instanceof ApiError && PASSING.has(error.status) && this.attempt < TRIES_MAX) {
      await this.wait(backoff(this.attempt++), "away", error.message);
    } else if (error instanceof ApiError && error.status === 404 && this.node.responseId) {
      this.end("failed", { error: "The service does not keep this reply any more." });
    } else if (error instanceof Away || this.broken) {
      await this.wait(backoff(this.attempt++), "away", error.message);
    } else if (error instanceof ApiError) {
      this.end("failed", { error: error.message });
    } else {
      console.error(error);
      this.end("failed", { error: `The console failed: ${error.message}` });
    }
  }

  async wait(ms, name, why, strict = false) {
    if (this.wantsStop && !this.node.responseId) {
      this.end("stopped");
      return;
    }
    this.say(name, { until: Date.now() + ms, why, asked: Boolean(this.node.responseId) });
    await pause(ms, this.left.signal, strict);
    if (!this.left.signal.aborted) this.say("asking");
  }

  // Stop: what was said so far stays.  It is stopped here at once; the service is told until it
  // has heard.
  async cancel() {
    const { node } = this;
    this.wantsStop = true;
    if (!node.responseId) {
      if (!this.reading && this.phase.name !== "asking") this.end("stopped");
      else this.say("stopping");
      return;
    }
    this.end("stopped");
    for (let attempt = 0; attempt < TRIES_MAX; attempt++) {
      try {
        await call(`/v1/responses/${node.responseId}/cancel`, { method: "POST" });
        return;
      } catch (error) {
        if (error instanceof ApiError && !WAITABLE.has(error.status)) return; // it had ended
        await pause(backoff(attempt));
      }
    }
  }
}

export function textOf(response) {
  let text = "";
  for (const item of response?.output ?? []) {
    for (const part of item.content ?? []) if (part.type === "output_text") text += part.text;
  }
  return text;
}

// For a reply that is not on the screen: has it ended meanwhile?  True when node changed.
export async function glance(node) {
  if (!node.responseId) return false;
  try {
    const response = await json(`/v1/responses/${node.responseId}`);
    if (response.status === "queued" || response.status === "in_progress") return false;
    const status = { completed: "done", cancelled: "stopped", incomplete: "cut" }[response.status] ?? "failed";
    const text = textOf(response);
    Object.assign(node, { status, wyvern: response.wyvern ?? null, usage: response.usage ?? null });
    if (text !== "") node.text = text;
    if (status === "failed") node.error = response.error?.message ?? "The reply failed.";
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) return false;
    Object.assign(node, { status: "failed", error: "The service does not keep this reply any more." });
  }
  delete node.request;
  return true;
}
