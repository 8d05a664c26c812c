// The chat: one conversation on the screen, its composer, and the list of the others.

import { ApiError, call, service } from "./api.js";
import { announce, byId, confirmed, download, h, icon, iconButton, toast } from "./dom.js";
import { Follower, glance } from "./follow.js";
import { Reply, sendIcon, stopIcon, UserMessage } from "./messages.js";
import { asParameters, modelName, settings, showSettings, wantKey } from "./settings.js";
import * as store from "./store.js";

const TITLE_MAX = 60;
const TEXT_MAX = 200000; // characters of one message
const NEAR_PX = 80; // so near its end the transcript follows
const GLANCE_MS = 5000;
const HIDDEN_MS = 30000;

const IDEAS = [
  "Explain to a child why the sky turns red at sunset.",
  "Write a short story about a lighthouse keeper and a fox.",
  "What is the difference between weather and climate?",
  "Give me a table of three bread doughs with flour, water and time.",
];

let conversation; // on the screen; perhaps not kept yet
let follower = null; // at most one: a browser lets few connections to a host stay open
let shown = new Map(); // node id → its UserMessage or Reply
let stale = false; // another tab wrote the conversation while a message is edited here
let hidden; // timer of a tab that nobody looks at
let parts = {};

// ---- the frame of the view ----

export function openChat(view) {
  const title = h("h1", { id: "chat-title" }, "New chat");
  const model = h("button", { type: "button", class: "button small model", onclick: showSettings }, h("span", {}, "…"));
  const save = iconButton("save", "Export conversation", exportThis, false);
  const drop = iconButton("trash", "Delete conversation", () => removeAsked(conversation.id), false);
  const column = h("div", { class: "column" });
  const transcript = h("div", { class: "transcript", tabindex: "0", role: "region", "aria-label": "Messages" }, column);
  const area = h("textarea", { id: "prompt", rows: 1, maxlength: TEXT_MAX, placeholder: "Ask anything",
    "aria-label": "Message", enterkeyhint: "send" });
  const send = h("button", { type: "submit", class: "send", id: "send", "aria-label": "Send" }, sendIcon());
  const latest = h("button", { type: "button", class: "button small latest", hidden: true, onclick: toEnd }, icon("down"), "Latest");
  const form = h("form", { onsubmit: submit }, area, send);
  view.append(h("header", { class: "chat-head" }, title, model, save, drop), transcript, h("div", { class: "latest-place" }, latest),
    h("div", { class: "composer" }, form, h("p", { class: "hint" }, "Enter sends, Shift + Enter makes a new line. Replies may be wrong.")));
  parts = { view, title, model, save, drop, column, transcript, area, send, latest };
  area.addEventListener("input", fit);
  area.addEventListener("keydown", onKey);
  transcript.addEventListener("scroll", () => {
    latest.hidden = isNearEnd();
  }, { passive: true });
  settings.addEventListener("change", showModel);
  store.store.addEventListener("change", showHistory);
  store.store.addEventListener("foreign", onForeign);
  store.store.addEventListener("removed", onRemoved);
  store.store.addEventListener("evicted", () => toast("The oldest conversation made room for this one."));
  store.store.addEventListener("full", () => toast("This browser has no room to keep conversations."));
  setInterval(glanceAtOthers, GLANCE_MS);
  document.addEventListener("visibilitychange", onVisible);
  document.addEventListener("keydown", onEscape, { capture: true }); // before a menu is closed by it
  showModel();
  conversation = store.newConversation(); // also where another view is the first
  show();
}

function showModel() {
  parts.model.firstChild.textContent = modelName();
  parts.model.setAttribute("aria-label", `Model ${modelName()}, settings`);
}

function isNearEnd() {
  const { transcript } = parts;
  return transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < NEAR_PX;
}

function toEnd() {
  parts.transcript.scrollTop = parts.transcript.scrollHeight;
}

// Follows what is written, unless the person reads further up.
function keepingEnd(change) {
  const near = isNearEnd();
  change();
  if (near) toEnd();
  else parts.latest.hidden = false;
}

function fit() {
  const { area } = parts;
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
  area.style.overflowY = area.scrollHeight > area.clientHeight ? "auto" : "hidden";
  showSend();
}

function onKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!follower) submit(event);
  }
}

// Wherever in the chat the focus is; but an edit, the menu and a dialog are left by it first.
function onEscape(event) {
  if (event.key !== "Escape" || event.isComposing || !follower || parts.view.hidden) return;
  if (document.querySelector("dialog[open], .side.open") || event.target.closest(".edit")) return;
  follower.cancel();
}

function showSend() {
  const { send, area } = parts;
  const stops = follower !== null;
  send.disabled = !stops && area.value.trim() === "";
  if (send.dataset.stops === String(stops)) return;
  send.dataset.stops = String(stops);
  send.setAttribute("aria-label", stops ? "Stop" : "Send");
  send.title = stops ? "Stop (Escape)" : "Send";
  send.replaceChildren(stops ? stopIcon() : sendIcon());
}

// ---- which conversation ----

// Shows a conversation; null: a new one, which is kept with its first message.
export function showConversation(id) {
  const wanted = id ? store.get(id) : null;
  if (wanted === conversation || (!wanted && !id && isFresh())) {
    showTitle();
    return;
  }
  follower?.leave();
  follower = null;
  conversation = wanted ?? store.newConversation();
  show();
  if (id && !wanted) location.replace("#/chat");
}

const isFresh = () => Object.keys(conversation.nodes).length === 0;

// From another view, back to where the person was.
export function showAgain() {
  if (!isFresh()) history.replaceState(null, "", `#/chat/${conversation.id}`);
  showTitle();
}

function showTitle() {
  const title = conversation.title || "New chat";
  parts.title.textContent = title;
  if (!parts.view.hidden) byId("topbar-title").textContent = title;
}

// What was on the screen is gone; which view is shown stays as it is.
function startAnew() {
  leaveFollower();
  conversation = store.newConversation();
  if (!parts.view.hidden) history.replaceState(null, "", "#/chat");
  show();
}

export function newChat() {
  location.hash = "#/chat";
  showConversation(null);
  parts.area.focus();
}

export function focusComposer() {
  parts.area.focus({ preventScroll: true });
}

function show() {
  stale = false;
  const nodes = store.path(conversation);
  for (const message of shown.values()) message.drop?.();
  shown = new Map();
  parts.column.replaceChildren();
  showTitle();
  parts.save.hidden = parts.drop.hidden = nodes.length === 0;
  parts.column.classList.toggle("empty", nodes.length === 0);
  if (nodes.length === 0) parts.column.append(...emptyState());
  for (const node of nodes) append(node);
  showHistory();
  toEnd();
  parts.latest.hidden = true;
  const last = nodes.at(-1);
  if (last && store.isOpen(last)) follow(last);
  showSend();
}

function emptyState() {
  return [
    h("div", {}, h("h2", {}, "What shall we talk about?"),
      h("p", {}, "Replies are made by the workers of this service. They go on when you close the page, and are here when you come back.")),
    h("ul", { class: "ideas" }, IDEAS.map((idea) => h("li", {}, h("button", { type: "button", onclick: () => ask(idea) }, idea)))),
  ];
}

function append(node) {
  const list = store.siblings(conversation, node);
  const place = list.indexOf(node);
  const onTurn = (step) => {
    conversation.chosen[node.parent] = list[place + step].id;
    store.save(conversation);
    leaveFollower();
    show();
    shown.get(list[place + step].id)?.element.querySelector(".versions button:not(:disabled)")?.focus();
  };
  const message = node.role === "user"
    ? new UserMessage(node, place, list.length, { onTurn, onEdit: (text) => edit(node, text), onLeave: () => stale && show() })
    : new Reply(node, place, list.length, { onTurn, onAgain: () => again(node), say: announce });
  shown.set(node.id, message);
  parts.column.append(message.element);
  return message;
}

// A tab that nobody looks at gives its stream back: all tabs together may have six.
function onVisible() {
  clearTimeout(hidden);
  if (document.hidden) {
    hidden = setTimeout(leaveFollower, HIDDEN_MS);
    return;
  }
  const last = store.path(conversation).at(-1);
  if (!follower && last && store.isOpen(last)) follow(last);
  showSend();
}

function leaveFollower() {
  follower?.leave();
  follower = null;
}

// ---- asking ----

function submit(event) {
  event.preventDefault();
  if (follower) {
    follower.cancel();
    return;
  }
  const text = parts.area.value;
  if (!text.trim()) return;
  parts.area.value = "";
  fit();
  ask(text);
}

function ask(text) {
  leaveFollower();
  const before = store.path(conversation);
  const user = store.addNode(conversation, before.at(-1)?.id ?? "root", { role: "user", text });
  if (!conversation.title) conversation.title = titleOf(text);
  reply(user);
}

// The first line, cut at a word's end.
function titleOf(text) {
  const line = text.trim().split("\n")[0];
  return line.length <= TITLE_MAX ? line : `${line.slice(0, TITLE_MAX + 1).replace(/\s?\S*$/, "") || line.slice(0, TITLE_MAX)}…`;
}

function edit(node, text) {
  leaveFollower();
  reply(store.addNode(conversation, node.parent, { role: "user", text }));
}

function again(node) {
  leaveFollower();
  reply(conversation.nodes[node.parent]);
}

// Asks for a reply to a message of the person, with what was said before it.
function reply(user) {
  const input = [];
  for (const node of store.path(conversation)) {
    if (node.role === "user" || node.text) input.push({ role: node.role, content: node.text });
    if (node === user) break;
  }
  wantKey();
  const request = { ...asParameters(), input, stream: true, background: true, store: true };
  store.addNode(conversation, user.id, { role: "assistant", status: "running", seq: -1, key: `console-${store.newId()}${store.newId()}`, request });
  store.save(conversation);
  history.replaceState(null, "", `#/chat/${conversation.id}`);
  show();
  parts.area.focus();
  announce("Sent. The reply is being made.");
}

function follow(node) {
  const message = shown.get(node.id);
  const own = conversation;
  const on = new Follower(node, {
    onText: () => {
      keepingEnd(() => message.more());
      store.save(own, true);
    },
    onPhase: (phase) => keepingEnd(() => message.phase(phase)),
    onEnd: () => {
      if (follower === on) follower = null;
      keepingEnd(() => message.finish(true));
      store.save(own);
      showSend();
    },
  });
  follower = on;
  message.phase(on.phase);
}

// Settled text is laid out by a timer of its own: the end is followed there too.
function observeGrowth() {
  let near = true;
  parts.transcript.addEventListener("scroll", () => {
    near = isNearEnd();
  }, { passive: true });
  const growth = new ResizeObserver(() => near && (follower || parts.transcript.scrollTop > 0) && toEnd());
  growth.observe(parts.column);
  growth.observe(parts.transcript);
}

// Replies of conversations that are not on the screen.
async function glanceAtOthers() {
  if (service.state !== "ok" || document.hidden) return;
  for (const other of store.conversations()) {
    for (const node of store.openNodes(other)) {
      if (node.id === follower?.node.id || !await glance(node)) continue;
      if (store.get(other.id) !== other) continue; // deleted, or written by another tab, meanwhile
      store.save(other);
      if (other.id === conversation.id) {
        if (shown.has(node.id)) show(); // else it is of a branch that is not on the screen
      } else toast(`The reply in “${other.title}” is there.`);
    }
  }
}

// Another tab wrote this conversation.
function onForeign(event) {
  if (event.detail !== conversation.id) return;
  const theirs = store.get(event.detail);
  if (!theirs) {
    startAnew();
    return;
  }
  const same = store.path(theirs).map((node) => node.id).join() === store.path(conversation).map((node) => node.id).join();
  if (same && follower) return; // both follow the same reply
  leaveFollower();
  conversation = theirs;
  stale = parts.column.querySelector(".edit") !== null; // what is typed there is not thrown away
  if (!stale) show();
  else showSend();
}

// ---- the list, and what is kept ----

async function removeAsked(id) {
  const { title } = store.get(id) ?? {};
  if (!await confirmed(`Delete “${title}” from this browser?`, "Delete")) return;
  store.remove(id);
}

// Here, by the list, by the settings or for want of room.
let erasing = Promise.resolve();
function onRemoved({ detail: gone }) {
  if (gone.id === conversation.id) {
    startAnew();
    focusComposer();
  }
  erasing = erasing.then(() => eraseAtService(gone)); // one after the other: a chat goes on beside it
}

// What the service keeps of its replies; those that are being made end.
async function eraseAtService(gone) {
  for (const node of Object.values(gone.nodes)) {
    if (!node.responseId) continue;
    try {
      await call(`/v1/responses/${node.responseId}`, { method: "DELETE" });
    } catch (error) {
      if (!(error instanceof ApiError)) return; // it forgets them by itself, later
    }
  }
}

function exportThis() {
  download(`wyvern-${conversation.id.slice(0, 8)}.json`, store.exported([conversation]));
}

function showHistory() {
  const list = store.conversations(), place = byId("history");
  const active = document.activeElement, at = [...place.children].findIndex((row) => row.contains(active));
  const held = place.children[at]?.dataset.id;
  byId("history-empty").hidden = list.length > 0;
  place.replaceChildren(...list.map((one) => h("li", { class: one.id === conversation.id ? "chosen" : null, "data-id": one.id },
    store.openNodes(one).length > 0 ? h("span", { class: "live", role: "img", "aria-label": "Being answered" }) : null,
    h("a", { href: `#/chat/${one.id}`, "aria-current": one.id === conversation.id ? "true" : null, title: one.title }, one.title || "Untitled"),
    iconButton("trash", `Delete “${one.title}”`, () => removeAsked(one.id)))));
  if (at < 0) return;
  // Who was in the list is not thrown out of it: the same row, or the one that took its place.
  const row = [...place.children].find((each) => each.dataset.id === held) ?? place.children[Math.min(at, list.length - 1)];
  (row?.querySelector(active.localName) ?? byId("new-chat")).focus({ preventScroll: true });
}

export const startChat = (view) => {
  openChat(view);
  observeGrowth();
};
