// The frame: which view is shown, is the service there, colours, the drawer of narrow screens.

import { ApiError, backoff, call, service } from "./api.js";
import { startChat, showAgain, showConversation, newChat, focusComposer } from "./chat.js";
import { showCluster, startCluster } from "./cluster.js";
import { byId, icon, toast } from "./dom.js";
import { startLoad } from "./load.js";
import { loadModels, openSettings } from "./settings.js";
import { openStore } from "./store.js";

const WELL_MS = 8000; // between two looks while all is well
const VIEWS = { chat: "Chat", cluster: "Cluster", load: "Load" };

// ---- views ----

let view = null;
let toComposer = false; // a new chat was asked for on another view

function route() {
  const [, name, id] = location.hash.match(/^#\/(\w+)(?:\/(\w+))?/) ?? [];
  const wanted = name in VIEWS ? name : "chat";
  const other = view !== null && view !== wanted;
  view = wanted;
  for (const each of Object.keys(VIEWS)) {
    byId(`view-${each}`).hidden = each !== view;
    const link = document.querySelector(`#nav a[data-view="${each}"]`);
    if (each === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "chat" && other && !id && !toComposer) showAgain();
  else if (view === "chat") showConversation(id ?? null);
  showCluster(view === "cluster");
  document.title = view === "chat" ? "wyvern" : `${VIEWS[view]} · wyvern`;
  if (view !== "chat") byId("topbar-title").textContent = VIEWS[view];
  drawer(false);
  if (other && toComposer) focusComposer();
  else if (other) byId("main").focus({ preventScroll: true });
  toComposer = false;
}

// ---- the drawer ----

function drawer(open) {
  const side = byId("side"), was = side.classList.contains("open");
  side.classList.toggle("open", open);
  byId("scrim").hidden = !open;
  byId("menu").setAttribute("aria-expanded", String(open));
  byId("main").inert = open;
  if (open) byId("side-close").focus();
  else if (was && (side.contains(document.activeElement) || document.activeElement === document.body)) byId("menu").focus();
}

function openFrame() {
  byId("menu").append(icon("menu"));
  byId("topbar-new").append(icon("plus"));
  byId("side-close").append(icon("close"));
  byId("settings-open").append(icon("gear"));
  byId("new-chat").prepend(icon("plus"));
  for (const link of document.querySelectorAll("#nav a")) link.prepend(icon(link.dataset.view));
  byId("menu").addEventListener("click", () => drawer(true));
  byId("side-close").addEventListener("click", () => drawer(false));
  byId("scrim").addEventListener("click", () => drawer(false));
  byId("side").addEventListener("keydown", (event) => event.key === "Escape" && drawer(false));
  byId("history").addEventListener("click", (event) => event.target.closest("a") && drawer(false));
  for (const id of ["new-chat", "topbar-new"]) {
    byId(id).addEventListener("click", () => {
      drawer(false);
      toComposer = view !== "chat";
      newChat();
    });
  }
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    if (view === "chat") focusComposer();
    else byId("main").focus();
  });
  addEventListener("hashchange", route);
}

// ---- colours ----

const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };
const THEME_NAMES = { auto: "as the system", light: "light", dark: "dark" };

function showTheme(theme) {
  const root = document.documentElement;
  if (theme === "auto") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const button = byId("theme");
  button.replaceChildren(icon(THEME_ICONS[theme]));
  button.setAttribute("aria-label", `Colours: ${THEME_NAMES[theme]}`);
  button.title = `Colours: ${THEME_NAMES[theme]}`;
}

function openTheme() {
  showTheme(document.documentElement.dataset.theme ?? "auto");
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
    showTheme(next);
    try {
      localStorage.setItem("wyvern.theme", next);
    } catch {
      // then it lasts as long as the page
    }
  });
}

// ---- is the service there? ----

let failures = 0;
let nextLook = null;
let looking = false;
let again = false; // a key came while it was looked
let known = false; // the models were read, or are not for us until there is another key

async function look() {
  if (looking) return;
  looking = true;
  clearTimeout(nextLook);
  let wait = WELL_MS;
  try {
    const signal = AbortSignal.timeout(6000);
    await call("/ready", { signal });
    const back = service.state !== "ok";
    failures = 0;
    service.set("ok");
    if (back) service.dispatchEvent(new Event("back"));
    if (!known) await loadModels().then(() => { known = true; }, (error) => { known = error.status === 401; });
  } catch (error) {
    wait = backoff(failures++);
    if (error instanceof ApiError) service.set("starting");
    else service.set("away", { until: Date.now() + wait });
  }
  looking = false;
  if (again) {
    known = again = false;
    wait = 0;
  }
  nextLook = setTimeout(look, document.hidden ? 4 * wait : wait);
}

function showService() {
  const { state } = service;
  const words = { unknown: "Connecting…", ok: "Service is ready", starting: "No worker is ready", away: "Service is away" };
  byId("service-text").textContent = words[state];
  byId("service").firstElementChild.className = `dot ${{ ok: "good", starting: "warn", away: "bad" }[state] ?? ""}`;
  byId("banner").hidden = state === "ok" || state === "unknown";
  byId("banner").classList.toggle("bad", state === "away");
  byId("banner-action").hidden = state !== "away";
  byId("banner-text").textContent = state === "away"
    ? "The service can't be reached. Trying again by itself; nothing that was written is lost."
    : "The service is there, but no worker is ready yet. What you send waits for one.";
}

function openService() {
  byId("banner-action").textContent = "Try now";
  byId("banner-action").addEventListener("click", look);
  service.addEventListener("change", showService);
  service.addEventListener("doubt", () => service.state !== "away" && look());
  service.addEventListener("key", () => {
    known = false;
    again = looking;
    look();
  });
  addEventListener("online", look);
  document.addEventListener("visibilitychange", () => !document.hidden && look());
}

async function main() {
  openTheme();
  openFrame();
  openSettings();
  openService();
  if (!await openStore()) toast("This browser keeps no conversations for this page.");
  startChat(byId("view-chat"));
  startCluster(byId("view-cluster"));
  startLoad(byId("view-load"));
  route();
  look();
  if (view === "chat" && matchMedia("(min-width: 801px)").matches) focusComposer();
}

main();
