// marked's tokens → elements.  No HTML is ever parsed: what a reply says can become these elements
// and no others, and HTML in it is shown as it was written.  (The page's policy forbids HTML made of
// text altogether: trusted-types 'none'.)

import { copy, h, iconButton } from "./dom.js";

const DEPTH_MAX = 40;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", mdash: "—", ndash: "–",
  lsquo: "‘", rsquo: "’", ldquo: "“", rdquo: "”", laquo: "«", raquo: "»", bull: "•", middot: "·", copy: "©", reg: "®",
  trade: "™", deg: "°", plusmn: "±", times: "×", divide: "÷", euro: "€", pound: "£", sect: "§", para: "¶", rarr: "→",
  larr: "←", uarr: "↑", darr: "↓", harr: "↔", le: "≤", ge: "≥", ne: "≠", asymp: "≈", infin: "∞", radic: "√", sum: "∑",
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", lambda: "λ", mu: "μ", pi: "π", sigma: "σ", omega: "ω", szlig: "ß",
  auml: "ä", ouml: "ö", uuml: "ü", eacute: "é", egrave: "è", agrave: "à", ccedil: "ç", ntilde: "ñ" };

function entity(whole, name) {
  if (name[0] !== "#") return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : whole;
  const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
  return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : whole;
}

const decoded = (text) => text.replace(/&(#\d{1,7}|#x[\da-f]{1,6}|\w{2,8});/gi, entity);
// marked escapes code this way, and only this way.
const unescaped = (text) => text.replace(/&(lt|gt|quot|#39|amp);/g, entity);

// Only links that a person may follow; anything else stays text.
function link(token, depth) {
  const href = decoded(token.href ?? "");
  if (!/^(?:https?:\/\/|mailto:)/i.test(href) || !URL.canParse(href)) return [token.raw];
  // A picture is not loaded from anywhere: it is a link to it.
  const inside = token.type === "image" ? [decoded(token.text || "") || "picture"] : inline(token.tokens, depth + 1);
  return [h("a", { href, title: token.title ? decoded(token.title) : null, target: "_blank", rel: "noopener noreferrer nofollow" }, inside)];
}

function one(token, depth) {
  switch (token.type) {
    case "strong": return [h("strong", {}, inline(token.tokens, depth + 1))];
    case "em": return [h("em", {}, inline(token.tokens, depth + 1))];
    case "del": return [h("del", {}, inline(token.tokens, depth + 1))];
    case "codespan": return [h("code", {}, unescaped(token.text))];
    case "br": return [h("br", {})];
    case "html": return /^<br\s*\/?>$/i.test(token.raw.trim()) ? [h("br", {})] : [token.raw];
    case "link":
    case "image": return link(token, depth);
    case "text": return token.tokens ? inline(token.tokens, depth + 1) : [decoded(token.text)];
    case "escape": return [unescaped(token.text)];
    default: return [token.raw];
  }
}

function inline(tokens, depth) {
  if (depth > DEPTH_MAX) return tokens.map((token) => token.raw);
  return (tokens ?? []).flatMap((token) => one(token, depth));
}

function code(token) {
  const language = /^[\w+#.-]{1,32}/.exec(token.lang ?? "")?.[0] ?? "";
  const button = iconButton("copy", "Copy code", () => copy(token.text, button));
  return h("figure", { class: "code" }, h("figcaption", {}, h("span", {}, language || "text"), button),
    h("pre", { tabindex: "0", role: "region", "aria-label": `Code${language ? `, ${language}` : ""}` }, h("code", {}, token.text)));
}

function table(token) {
  const cell = (tag, content, i) => h(tag, { class: ["left", "right", "center"].includes(token.align[i]) ? `to-${token.align[i]}` : null,
    scope: tag === "th" ? "col" : null }, inline(content.tokens, 0));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    h("table", { dir: "auto" }, h("thead", {}, h("tr", {}, token.header.map((content, i) => cell("th", content, i)))),
      h("tbody", {}, token.rows.map((row) => h("tr", {}, row.map((content, i) => cell("td", content, i)))))));
}

function item(token, depth) {
  const box = token.task ? [token.checked ? "☑ " : "☐ "] : [];
  return h("li", {}, box, token.tokens.flatMap((inner) => (inner.type === "text" && !token.loose
    ? inline(inner.tokens ?? [inner], depth + 1) : block(inner, depth + 1))));
}

export const plain = (text) => h("div", { class: "plain" }, text);

// The elements of one block.
export function block(token, depth = 0) {
  if (depth > DEPTH_MAX) return [plain(token.raw)];
  switch (token.type) {
    case "space":
    case "def": return [];
    case "heading": return [h(`h${Math.min(6, token.depth + 2)}`, {}, inline(token.tokens, depth))];
    case "paragraph": return [h("p", {}, inline(token.tokens, depth))];
    case "text": return [h("p", {}, token.tokens ? inline(token.tokens, depth) : decoded(token.text))];
    case "code": return [code(token)];
    case "table": return [table(token)];
    case "hr": return [h("hr", {})];
    case "blockquote": return [h("blockquote", { dir: "auto" }, token.tokens.flatMap((inner) => block(inner, depth + 1)))];
    case "list": return [h(token.ordered ? "ol" : "ul", { dir: "auto", start: token.ordered && token.start > 1 ? token.start : null },
      token.items.map((inner) => item(inner, depth)))];
    default: return [plain(token.raw)];
  }
}
