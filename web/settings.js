// What is asked of the model, the key, the colours, and what is kept here.

import { apiKey, json, service, setApiKey } from "./api.js";
import { byId, confirmed, download, h, icon, iconButton, toast } from "./dom.js";
import { conversations, exported, remove } from "./store.js";

const PLACE = "wyvern.settings";
const PLAIN = { model: "default", system: "", temperature: null, top_p: null, max_tokens: null };

let current = { ...PLAIN };
let models = [];

// "change" when a setting or the list of models did.
export const settings = new EventTarget();
export const setting = (name) => current[name];

export function openSettings() {
  read();
  addEventListener("storage", (event) => {
    if (event.key !== PLACE) return;
    read(); // another tab changed them
    settings.dispatchEvent(new Event("change"));
  });
  service.addEventListener("unauthorized", askKey);
  byId("settings-open").addEventListener("click", showSettings);
}

const fits = (plain, value) => (plain === null ? value === null || Number.isFinite(value) : typeof value === "string");

function read() {
  try {
    const kept = JSON.parse(localStorage.getItem(PLACE) ?? "{}");
    for (const [name, plain] of Object.entries(PLAIN)) if (fits(plain, kept[name])) current[name] = kept[name];
  } catch {
    current = { ...PLAIN };
  }
}

function keep() {
  try {
    localStorage.setItem(PLACE, JSON.stringify(current));
  } catch {
    // then they last as long as the page
  }
  settings.dispatchEvent(new Event("change"));
}

export async function loadModels() {
  models = (await json("/v1/models")).data.map((model) => model.id);
  if (current.model !== "default" && !models.includes(current.model)) current.model = "default";
  settings.dispatchEvent(new Event("change"));
}

export const modelName = () => (current.model === "default" ? models[0] ?? "…" : current.model);

// What a request says of them: only what was set.
export function asParameters() {
  const out = { model: current.model, truncation: "auto" };
  if (current.system.trim()) out.instructions = current.system;
  if (current.temperature !== null) out.temperature = current.temperature;
  if (current.top_p !== null) out.top_p = current.top_p;
  if (current.max_tokens !== null) out.max_output_tokens = current.max_tokens;
  return out;
}

// ---- the dialog ----

function numberField(name, label, { min, max, step, hint }) {
  const id = `setting-${name}`;
  const input = h("input", { type: "number", id, min, max, step, placeholder: "Default", inputmode: "decimal",
    "aria-describedby": `${id}-hint`, value: current[name] ?? undefined });
  const note = h("span", { class: "hint", id: `${id}-hint`, role: "status" }, hint);
  input.addEventListener("change", () => {
    const value = input.valueAsNumber;
    // Said in its place: the browser's own report would take the focus from what is being clicked.
    // A step is what the arrows go by, and a rule for whole numbers alone.
    const { badInput, rangeUnderflow, rangeOverflow, stepMismatch } = input.validity;
    const wrong = badInput || rangeUnderflow || rangeOverflow || (step === 1 && stepMismatch);
    input.setAttribute("aria-invalid", `${wrong}`);
    note.textContent = wrong ? `${hint}; not kept` : hint;
    if (wrong) return;
    current[name] = Number.isFinite(value) ? value : null;
    keep();
  });
  return h("div", { class: "field" }, h("label", { for: id }, label), input, note);
}

function modelField() {
  const select = h("select", { id: "setting-model" },
    h("option", { value: "default" }, `Default${models[0] ? ` (${models[0]})` : ""}`),
    models.map((model) => h("option", { value: model }, model)));
  select.value = current.model;
  select.addEventListener("change", () => {
    current.model = select.value;
    keep();
  });
  return h("div", { class: "field" }, h("label", { for: "setting-model" }, "Model"), select);
}

function systemField() {
  const area = h("textarea", { id: "setting-system", rows: 3, maxlength: 20000,
    placeholder: "You are a patient teacher…" });
  area.value = current.system;
  area.addEventListener("change", () => {
    current.system = area.value;
    keep();
  });
  return h("div", { class: "field" }, h("label", { for: "setting-system" }, "System prompt"), area);
}

function keyField(signal) {
  const input = h("input", { type: "password", id: "setting-key", autocomplete: "off", spellcheck: "false",
    "aria-describedby": "setting-key-hint" });
  const show = () => {
    input.value = apiKey();
  };
  show();
  service.addEventListener("key", show, { signal }); // it may be asked for over this dialog
  input.addEventListener("change", () => {
    wantKey(); // if it is wrong, that is said
    setApiKey(input.value.trim());
  });
  return h("form", { class: "field", onsubmit: (event) => event.preventDefault() }, h("label", { for: "setting-key" }, "API key"), input,
    h("span", { class: "hint", id: "setting-key-hint" },
      "Only where the service asks for one. Forgotten when this tab is closed."));
}

function keptHere(dialog) {
  const list = conversations();
  return h("div", { class: "field" },
    h("span", { class: "label" }, "Conversations in this browser"),
    h("div", { class: "row" },
      h("button", { type: "button", class: "button small", disabled: list.length === 0,
        onclick: () => download("wyvern-conversations.json", exported(conversations())) }, icon("save"), "Export all"),
      h("button", { type: "button", class: "button small danger", disabled: list.length === 0, onclick: async () => {
        dialog.close();
        if (!await confirmed(`Delete all ${list.length} conversations from this browser?`, "Delete all")) return;
        for (const conversation of conversations()) remove(conversation.id);
        toast("All conversations were deleted.");
      } }, icon("trash"), "Delete all")));
}

let frames = 0; // one dialog may ask over another: each has its own title

function frame(title, ...body) {
  const id = `dialog-title-${++frames}`;
  const dialog = h("dialog", { "aria-labelledby": id });
  dialog.append(
    h("div", { class: "dialog-head" }, h("h2", { id }, title),
      iconButton("close", "Close", () => dialog.close(), false)),
    h("div", { class: "dialog-body" }, body));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  return dialog;
}

export function showSettings() {
  const dialog = frame("Settings");
  const body = dialog.querySelector(".dialog-body");
  const closed = new AbortController();
  dialog.addEventListener("close", () => closed.abort());
  const reset = h("button", { type: "button", class: "button", onclick: () => {
    const { model } = current;
    current = { ...PLAIN, model };
    keep();
    fill();
    reset.focus();
  } }, "Reset");
  const fill = () => body.replaceChildren(
    modelField(), systemField(),
    h("div", { class: "fields" },
      numberField("temperature", "Temperature", { min: 0, max: 2, step: 0.05, hint: "0 to 2" }),
      numberField("top_p", "Top p", { min: 0.01, max: 1, step: 0.01, hint: "0.01 to 1" }),
      numberField("max_tokens", "Longest reply", { min: 1, max: 1000000, step: 1, hint: "1 to 1,000,000 tokens" })),
    h("hr", {}), keyField(closed.signal), h("hr", {}), keptHere(dialog),
    h("div", { class: "dialog-foot stuck" }, reset,
      h("button", { type: "button", class: "button primary", onclick: () => dialog.close() }, "Done")));
  fill();
  dialog.showModal();
}

// The service answered 401.
let asking = null;
let declined = false; // it was closed without a key: not asked again until something is sent

export function wantKey() {
  declined = false;
}

function askKey() {
  if (asking || declined) return;
  declined = true;
  const input = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true,
    "aria-describedby": "key-why" });
  const given = (event) => {
    event.preventDefault();
    declined = false;
    asking.close();
    asking = null;
    setApiKey(input.value.trim());
  };
  asking = frame("This service asks for a key",
    h("p", { class: "hint", id: "key-why" }, apiKey() ? "This key is not known here." : "Whoever runs the service makes keys with “wyvern key add”."),
    h("form", { class: "field", onsubmit: given }, h("label", { for: "key" }, "API key"), input,
      h("div", { class: "dialog-foot" }, h("button", { type: "submit", class: "button primary" }, "Use this key"))));
  const dialog = asking;
  dialog.addEventListener("close", () => {
    if (asking === dialog) asking = null;
  });
  dialog.showModal();
  input.focus();
}
