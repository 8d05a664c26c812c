// Making elements, saying things, writing figures.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

const ICONS = {
  menu: "M4 7h16M4 12h16M4 17h16",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M8 8h8v8H8zM8 10h8M8 12h8M8 14h8",
  copy: "M9 9h10v11H9zM15 9V5H5v11h4",
  check: "M5 13l4.5 4.5L19 7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M20 5v5h-5M19.5 10A8 8 0 1 0 20 14",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M5 19l2-2M17 7l2-2",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 8h7M12 12.5h9M12 17h7",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  save: "M12 4v11M7 10l5 5 5-5M5 20h14",
  chat: "M4 5h16v11H11l-5 4v-4H4z",
  cluster: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01",
  load: "M4 20V4M4 20h16M8 16V11M12 16V7M16 16v-4",
};

export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", fill: "none", stroke: "currentColor", "stroke-width": "1.8",
    "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true", focusable: "false" },
    s("path", { d: ICONS[name] }));
}

export function iconButton(name, label, onclick, small = true) {
  return h("button", { type: "button", class: small ? "icon-button small" : "icon-button", "aria-label": label,
    title: label, onclick }, icon(name));
}

export const byId = (id) => document.getElementById(id);

// Makes an element like another and touches only what differs: focus, selection and scrolling stay.
// (Listeners do not go over.)
export function become(element, wanted) {
  if (element.nodeName !== wanted.nodeName) {
    element.replaceWith(wanted);
  } else if (element.nodeType === Node.TEXT_NODE) {
    if (element.data !== wanted.data) element.data = wanted.data;
  } else {
    for (const { name } of [...element.attributes]) if (!wanted.hasAttribute(name)) element.removeAttribute(name);
    for (const { name, value } of wanted.attributes) if (element.getAttribute(name) !== value) element.setAttribute(name, value);
    const old = [...element.childNodes], children = [...wanted.childNodes];
    children.forEach((child, i) => (i < old.length ? become(old[i], child) : element.append(child)));
    old.slice(children.length).forEach((child) => child.remove());
  }
}

// ---- saying things ----

// For screen readers; what is said twice is heard twice.
export function announce(text) {
  const region = byId("announce");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

export function toast(text) {
  const element = h("div", { class: "toast" }, text);
  byId("toasts").append(element);
  setTimeout(() => element.remove(), 5000);
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Not over plain HTTP from another host: the old way.
    const area = h("textarea", { class: "unseen", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.replaceChildren(icon("check"));
  announce("Copied");
  setTimeout(() => button.replaceChildren(icon("copy")), 1500);
}

// A question with two answers; resolves to true when it was confirmed.
export function confirmed(question, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "confirm-text" },
      h("div", { class: "dialog-body" },
        h("p", { id: "confirm-text" }, question),
        h("div", { class: "dialog-foot" },
          h("button", { type: "button", class: "button", onclick: () => dialog.close("") }, "Keep"),
          h("button", { type: "button", class: "button danger", onclick: () => dialog.close("yes") }, action))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// ---- figures ----

export function number(value, digits = 0) {
  return Number.isFinite(value)
    ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "–";
}

export const counted = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

export function seconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0 s";
  if (value < 0.0995) return `${number(value * 1000)} ms`;
  if (value < 9.95) return `${number(value, 1)} s`;
  if (value < 99.5) return `${number(value)} s`;
  const whole = Math.round(value), rest = whole % 60;
  return `${Math.floor(whole / 60)} min${rest > 0 ? ` ${rest} s` : ""}`;
}

export function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  return value >= 2 ** 30 ? `${number(value / 2 ** 30, 1)} GiB` : `${number(value / 2 ** 20)} MiB`;
}

export const percent = (share) => (Number.isFinite(share) ? `${number(100 * share)} %` : "–");
