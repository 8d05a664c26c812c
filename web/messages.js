// How one message looks, and what can be done with it.

import { copy, h, icon, iconButton, number, seconds } from "./dom.js";
import { Markdown } from "./markdown.js";

const SAY_MS = 4000; // a screen reader hears settled parts of a reply at most so often
const SAY_MAX = 500;

function versions(place, count, onTurn) {
  if (count < 2) return null;
  const earlier = iconButton("left", "Earlier version", () => onTurn(-1));
  const later = iconButton("right", "Later version", () => onTurn(1));
  earlier.disabled = place === 0;
  later.disabled = place === count - 1;
  return h("span", { class: "versions", role: "group", "aria-label": `Version ${place + 1} of ${count}` },
    earlier, h("span", { "aria-hidden": "true" }, `${place + 1}/${count}`), later);
}

function facts(node) {
  const { wyvern, usage } = node;
  const parts = [];
  if (wyvern?.inference_worker) parts.push(wyvern.inference_worker);
  const tokens = usage?.output_tokens;
  const spent = wyvern?.finished_at - wyvern?.started_at;
  if (tokens > 0) parts.push(`${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
  if (tokens > 1 && spent > 0) parts.push(`${number(tokens / spent, 1)} a second`);
  if (spent >= 0) parts.push(seconds(spent));
  if (wyvern?.attempt > 1) parts.push(`attempt ${wyvern.attempt}`);
  return parts.join(" · ");
}

function stateText(phase) {
  const left = phase.until ? Math.max(0, Math.ceil((phase.until - Date.now()) / 1000)) : 0;
  const silent = phase.silent ? ` Nothing for ${phase.silent} s.` : "";
  switch (phase.name) {
    case "asking": return `Asking…${silent}`;
    case "stopping": return `Stopping…${silent}`;
    case "queued": return `Waiting for a free worker…${silent}`;
    case "reading": return `Thinking…${silent}`;
    case "writing": return phase.silent ? `The reply pauses.${silent}` : "Writing…";
    case "busy": return `${phase.why} Trying again in ${left} s.`;
    case "away": return `${phase.asked ? "The connection broke; the reply goes on without it." : "The service can't be reached."} Trying again in ${left} s.`;
    case "key": return "Waiting for a key…";
    default: return "";
  }
}

// A message of a person.
export class UserMessage {
  constructor(node, place, count, { onEdit, onLeave, onTurn }) {
    this.node = node;
    this.onEdit = onEdit;
    this.onLeave = onLeave;
    this.body = h("div", { class: "body" }, node.text);
    const copyButton = iconButton("copy", "Copy message", () => copy(node.text, copyButton));
    this.editButton = iconButton("edit", "Edit message", () => this.edit());
    this.tools = h("div", { class: "tools" }, versions(place, count, onTurn), copyButton, this.editButton);
    this.element = h("article", { class: "message user", "aria-label": "You" }, h("h2", { class: "unseen" }, "You said"), this.body, this.tools);
  }

  edit() {
    const area = h("textarea", { rows: Math.min(12, this.node.text.split("\n").length + 1), "aria-label": "Edit message" });
    area.value = this.node.text;
    const leave = () => {
      form.replaceWith(this.body);
      this.tools.hidden = false;
      this.editButton.focus();
      this.onLeave();
    };
    const send = (event) => {
      event?.preventDefault();
      if (area.value.trim()) this.onEdit(area.value);
    };
    const form = h("form", { class: "edit", onsubmit: send }, area,
      h("div", { class: "dialog-foot" },
        h("button", { type: "button", class: "button small", onclick: leave }, "Cancel"),
        h("button", { type: "submit", class: "button small primary" }, "Send")));
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) leave();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    });
    this.body.replaceWith(form);
    this.tools.hidden = true;
    area.focus();
  }
}

// A reply, perhaps one that is being made.
export class Reply {
  constructor(node, place, count, { onAgain, onTurn, say }) {
    Object.assign(this, { node, place, count, onAgain, onTurn, say });
    this.text = h("div", { class: "md" });
    this.state = h("div", { class: "state", hidden: true }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", {}));
    this.end = h("div", {});
    this.element = h("article", { class: "message assistant", "aria-label": "Reply" }, h("h2", { class: "unseen" }, "Reply"), this.text, this.state, this.end);
    this.unsaid = "";
    this.saidAt = 0;
    this.markdown = new Markdown(this.text, (block) => this.settled(block));
    if (node.status === "running") this.more();
    else this.finish(false);
  }

  // Whole blocks, not pieces: a screen reader is not flooded.
  settled(block) {
    if (!this.live) return;
    this.unsaid += ` ${block.textContent}`;
    if (performance.now() - this.saidAt < SAY_MS) return;
    this.sayNow();
  }

  sayNow() {
    const text = this.unsaid.trim();
    this.unsaid = "";
    this.saidAt = performance.now();
    if (text) this.say(text.length > SAY_MAX ? `${text.slice(0, SAY_MAX)}…` : text);
  }

  more() {
    this.live = true;
    this.markdown.update(this.node.text);
  }

  phase(phase) {
    this.state.hidden = false;
    this.state.lastChild.textContent = stateText(phase);
    this.state.classList.toggle("troubled", phase.name === "away" || phase.name === "busy");
    clearInterval(this.counting);
    if (phase.until) this.counting = setInterval(() => {
      this.state.lastChild.textContent = stateText(phase);
    }, 500);
  }

  drop() {
    clearInterval(this.counting);
  }

  finish(heard) {
    const { node } = this;
    this.drop();
    this.live = false;
    this.markdown.finish(node.text);
    this.state.hidden = true;
    const copyButton = iconButton("copy", "Copy reply", () => copy(node.text, copyButton));
    const note = { stopped: "Stopped.", cut: "The reply reached its longest length." }[node.status];
    this.end.replaceChildren(
      node.status === "failed" ? h("p", { class: "fault", role: heard ? "alert" : null }, node.error) : "",
      note ? h("p", { class: "note" }, note) : "",
      node.status === "done" && node.text === "" ? h("p", { class: "note" }, "The reply is empty.") : "",
      h("div", { class: "tools" }, versions(this.place, this.count, this.onTurn), node.text ? copyButton : null,
        iconButton("again", "Regenerate reply", this.onAgain), h("span", { class: "facts number" }, facts(node))));
    if (!heard) return;
    this.sayNow();
    this.say(node.status === "done" ? "Reply finished." : note ?? "The reply failed.");
  }
}

export const sendIcon = () => icon("send");
export const stopIcon = () => icon("stop");
