// Speaking to the gateway that this page came from, and knowing whether it is there.

export class ApiError extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message || `The service answered ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
    this.param = error?.param ?? null;
    this.retryAfter = retryAfter; // seconds, or null
  }
}

// The service could not be reached, or the connection broke.
export class Away extends Error {}

// "state": ok, starting, away, and "key" when a key is asked for.
class Service extends EventTarget {
  state = "unknown";
  detail = null;

  set(state, detail = null) {
    const same = this.state === state && JSON.stringify(detail) === JSON.stringify(this.detail);
    this.state = state;
    this.detail = detail;
    if (!same) this.dispatchEvent(new Event("change"));
  }
}
export const service = new Service();

const KEY = "wyvern.key";

export function apiKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function setApiKey(key) {
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch {
    // then it is asked for again after a reload
  }
  service.dispatchEvent(new Event("key"));
}

function retryAfter(response) {
  const value = Number(response.headers.get("retry-after"));
  return Number.isFinite(value) && value > 0 ? Math.min(value, 120) : null;
}

async function refuse(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // a proxy's page, perhaps
  }
  if (response.status === 401) service.dispatchEvent(new Event("unauthorized"));
  throw new ApiError(response.status, error, retryAfter(response));
}

// A response with status 2xx; throws ApiError, Away, or AbortError.
export async function call(path, { method = "GET", body, signal, headers = {} } = {}) {
  const all = { ...headers };
  const key = apiKey();
  if (key) all.authorization = `Bearer ${key}`;
  if (body !== undefined) all["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, signal, headers: all, cache: "no-store", credentials: "omit",
      body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    service.dispatchEvent(new Event("doubt"));
    throw new Away("The service can't be reached.");
  }
  if (!response.ok) await refuse(response);
  return response;
}

export async function json(path, options) {
  const response = await call(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The connection broke in the middle of an answer.");
  }
}

// Server-sent events of a response: {event, data} with parsed data, or {} for a comment.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", event = "", data = "";
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        service.dispatchEvent(new Event("doubt"));
        throw new Away("The connection broke.");
      }
      if (part.done) return;
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) {
          data += line.slice(line[5] === " " ? 6 : 5);
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trim();
        } else if (line.startsWith(":")) {
          yield {};
        } else if (line === "" && data !== "") {
          const whole = data;
          data = "";
          if (whole !== "[DONE]") yield { event, data: JSON.parse(whole) };
          event = "";
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Resolves after so many milliseconds, or sooner: when the network, the service or the person is
// back, when a key was given (unless strict), or when signal is aborted.  It never rejects.
export function pause(ms, signal, strict = false) {
  return new Promise((resolve) => {
    const stopped = new AbortController();
    const end = () => {
      clearTimeout(timer);
      stopped.abort();
      resolve();
    };
    const timer = setTimeout(end, ms);
    const { signal: until } = stopped;
    if (signal?.aborted) end();
    signal?.addEventListener("abort", end, { signal: until });
    if (strict) return;
    addEventListener("online", end, { signal: until });
    service.addEventListener("back", end, { signal: until });
    service.addEventListener("key", end, { signal: until });
    document.addEventListener("visibilitychange", () => !document.hidden && end(), { signal: until });
  });
}

// 0.5, 1, 2, 4 … 15 s, and a little of chance so that not all come back at once.
export function backoff(attempt) {
  return Math.min(15000, 500 * 2 ** Math.min(attempt, 10)) * (0.85 + 0.3 * Math.random());
}
