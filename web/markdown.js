// Markdown as it comes in.
//
// Text is cut into blocks; all but the last are settled and never touched again, the last is made
// anew at most every 100 ms.  A block that is too long to be parsed again and again is plain text
// until it ends.

import { h } from "./dom.js";
import { block, plain } from "./tokens.js";

const OPTIONS = { gfm: true, breaks: true };

const RENDER_MS = 100;
const TAIL_MAX = 8000; // characters of an unfinished block that is still shown as markdown
const BLOCK_MAX = 60000; // a finished one
const ANEW_MAX = 50000; // characters that are made anew at the end
const ROWS_MAX = 2000; // of a table

// One block, whole.
function rendered(token) {
  if (token.raw.length > BLOCK_MAX || (token.type === "table" && token.rows.length > ROWS_MAX)) return [plain(token.raw)];
  try {
    return block(token);
  } catch {
    return [plain(token.raw)];
  }
}

// As marked itself does before it counts what it took.
const normal = (text) => text.replace(/\r\n|\r/g, "\n").replace(/^( *)(\t+)/gm, (_, lead, tabs) => lead + "    ".repeat(tabs.length));

export class Markdown {
  constructor(element, onSettled = () => {}) {
    this.element = element;
    this.onSettled = onSettled;
    this.pending = ""; // not settled yet
    this.taken = 0; // characters of the whole text
    this.tail = h("div", { class: "block" });
    element.append(this.tail);
  }

  // The whole text so far; it only ever grows.
  update(text) {
    if (text.length <= this.taken) return;
    this.pending += text.slice(this.taken);
    this.taken = text.length;
    if (this.timer === undefined) {
      const late = performance.now() - (this.last ?? -RENDER_MS);
      this.timer = setTimeout(() => this.render(), Math.max(0, RENDER_MS - late));
    }
  }

  // The text is whole.  It is made anew, for links that are defined at its end, unless it is long.
  finish(text) {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.taken > 0 && text.length > ANEW_MAX) {
      this.pending += text.slice(this.taken);
      this.taken = text.length;
      this.render(true);
      return;
    }
    this.element.replaceChildren(this.tail);
    this.tail.replaceChildren();
    this.plainTail = null;
    this.taken = text.length;
    this.pending = text;
    this.render(true);
  }

  render(whole = false) {
    this.timer = undefined;
    // A block that grew too long stays plain text until it ends: only what is new is looked at.
    if (this.plainTail && !whole && !this.pending.includes("\n\n", Math.max(0, this.plainTail.data.length - 2))) {
      this.plainTail.appendData(this.pending.slice(this.plainTail.data.length));
      this.last = performance.now();
      return;
    }
    this.pending = normal(this.pending);
    let tokens = [];
    try {
      tokens = globalThis.marked.lexer(this.pending, OPTIONS);
    } catch {
      tokens = [{ type: "text", raw: this.pending }];
    }
    let last = whole ? tokens.length : tokens.length - 1;
    if (!whole && tokens.at(-1)?.type === "space") last--;
    for (let i = 0; i < last; i++) this.settle(tokens[i]);
    if (whole) this.tail.replaceChildren();
    else this.showTail(tokens.slice(Math.max(0, last)));
    this.last = performance.now();
  }

  settle(token) {
    this.pending = this.pending.slice(token.raw.length);
    if (token.type === "space") return;
    const settled = h("div", { class: "block" }, rendered(token));
    this.tail.before(settled);
    this.plainTail = null;
    this.onSettled(settled);
  }

  showTail(tokens) {
    if (this.pending.length > TAIL_MAX) {
      if (!this.plainTail) {
        this.plainTail = document.createTextNode(this.pending);
        this.tail.replaceChildren(h("div", { class: "plain" }, this.plainTail));
      } else {
        this.plainTail.data = this.pending;
      }
      return;
    }
    this.plainTail = null;
    this.tail.replaceChildren(...tokens.flatMap(rendered));
  }
}
