// Conversations, kept in this browser (IndexedDB; in memory where it is forbidden).
//
// A conversation is a tree: a message that was edited, or a reply that was asked for again, is a
// sibling of the one before.  chosen[parent] names the child that is shown.

const DATABASE = "wyvern";
const STORE = "conversations";
const CONVERSATIONS_MAX = 200;
const SAVE_MS = 400;
const OPEN_MS = 4000;

const all = new Map(); // id → conversation
const waiting = new Map(); // id → timer of a save
const tabs = "BroadcastChannel" in globalThis ? new BroadcastChannel("wyvern") : null;
let database = null;

// "change" with detail = id, or null when several did; "foreign": another tab wrote it; "removed"
// with the conversation that left; "evicted": the oldest left, because there were too many.
export const store = new EventTarget();

function tell(type, id) {
  store.dispatchEvent(new CustomEvent(type, { detail: id }));
}

function asked(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function objects(mode) {
  return database.transaction(STORE, mode).objectStore(STORE);
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function load() {
  try {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
    database = await asked(request);
    const kept = await asked(objects("readonly").getAll());
    const made = [...all.keys()]; // while it was waited for
    for (const conversation of kept) {
      if (!all.has(conversation.id)) all.set(conversation.id, conversation);
    }
    made.forEach(write);
    tell("change", null);
  } catch {
    database = null;
  }
}

// Browsers may take long, or never answer: the page goes on without, and what is kept comes later.
export async function openStore() {
  tabs?.addEventListener("message", onForeign);
  addEventListener("pagehide", () => [...waiting.keys()].forEach(write));
  await Promise.race([load(), new Promise((resolve) => { setTimeout(resolve, OPEN_MS); })]);
  return database !== null;
}

async function onForeign({ data }) {
  if (!database || typeof data?.id !== "string") return;
  const conversation = await asked(objects("readonly").get(data.id)).catch(() => null);
  if (conversation) all.set(data.id, conversation);
  else all.delete(data.id);
  tell("foreign", data.id);
  tell("change", data.id);
}

async function write(id) {
  clearTimeout(waiting.get(id));
  waiting.delete(id);
  if (!database) return;
  const conversation = all.get(id);
  try {
    const kept = objects("readwrite");
    const request = conversation ? kept.put(conversation) : kept.delete(id);
    kept.transaction.commit(); // at once: this page may be on its way out
    await asked(request);
    tabs?.postMessage({ id });
  } catch (error) {
    tell("full", String(error?.name ?? error));
  }
}

// soon: while a reply comes in, not each piece is written.
export function save(conversation, soon = false) {
  all.set(conversation.id, conversation);
  if (!soon) {
    conversation.updated = Date.now();
    bound();
    write(conversation.id);
    tell("change", conversation.id);
  } else if (!waiting.has(conversation.id)) {
    waiting.set(conversation.id, setTimeout(write, SAVE_MS, conversation.id));
  }
}

function bound() {
  const list = conversations();
  for (const old of list.slice(CONVERSATIONS_MAX)) {
    remove(old.id);
    tell("evicted", old.id);
  }
}

export function remove(id) {
  const gone = all.get(id);
  if (!gone) return;
  all.delete(id);
  write(id);
  tell("removed", gone);
  tell("change", id);
}

export function get(id) {
  return all.get(id) ?? null;
}

// Newest first.
export function conversations() {
  return [...all.values()].sort((a, b) => b.updated - a.updated);
}

export function exported(list) {
  return JSON.stringify({ format: "wyvern-conversations", version: 1, conversations: list }, null, 1);
}

// ---- a conversation ----

export function newConversation() {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, nodes: {}, chosen: {} };
}

export function addNode(conversation, parent, fields) {
  const node = { id: newId(), parent, created: Date.now(), text: "", ...fields };
  conversation.nodes[node.id] = node;
  conversation.chosen[parent] = node.id;
  return node;
}

// From the first message to the last one of what is shown.
export function path(conversation) {
  const nodes = [];
  for (let id = conversation.chosen.root; id && conversation.nodes[id]; id = conversation.chosen[id]) {
    nodes.push(conversation.nodes[id]);
  }
  return nodes;
}

export function siblings(conversation, node) {
  return Object.values(conversation.nodes).filter((other) => other.parent === node.parent)
    .sort((a, b) => a.created - b.created);
}

export const isOpen = (node) => node.role === "assistant" && node.status === "running";

export function openNodes(conversation) {
  return Object.values(conversation.nodes).filter(isOpen);
}
