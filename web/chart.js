// Charts, drawn as SVG: lines over the last minutes, and lanes on one time axis.

import { h, number, s } from "./dom.js";

const HEIGHT = 168;
const SPANS = [60, 180]; // seconds that are shown, at first and later
const LEFT = 56, RIGHT = 12, TOP = 10, BOTTOM = 24;
export const COLOURS = 8;

export const colour = (index) => `s${(index % COLOURS) + 1}`;

// 1, 2 or 5 times a power of ten, not below value.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

// Figures of an axis: nothing is rounded away, 2.5 is not written 3.
const exact = (value) => number(value, Number.isInteger(value) ? 0 : 1);
export const axisSeconds = (value) => (value > 0 && value < 1 ? `${exact(Math.round(value * 10000) / 10)} ms` : `${exact(value)} s`);

function onWidth(element, draw) {
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now === width || now === 0) return;
    width = now;
    draw(now);
  }).observe(element);
}

// A path through points, broken where one is missing.
function line(points) {
  let out = "", open = false;
  for (const [x, y] of points) {
    if (Number.isFinite(y)) {
      out += `${open ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      open = true;
    } else {
      open = false;
    }
  }
  return out;
}

export class LineChart {
  // most: top of the axis, else as the values want it; format: what stands at its ticks.
  constructor(title, { most = null, format = exact }) {
    Object.assign(this, { title, most, format });
    this.now = h("span", { class: "chart-now number" }, "–");
    this.holder = h("div", { class: "chart-area" });
    this.legend = h("ul", { class: "legend" });
    this.element = h("figure", { class: "card chart" },
      h("figcaption", {}, h("span", {}, title), this.now), this.holder, this.legend);
    this.times = [];
    this.span = SPANS[0];
    this.series = [];
    onWidth(this.holder, (width) => {
      this.width = width;
      this.draw();
    });
  }

  // times: seconds, growing; series: [{name, values}]; now: the sentence for the headline.
  update(times, series, now) {
    this.times = times;
    this.series = series;
    this.span = times.at(-1) - times[0] > SPANS[0] ? SPANS[1] : SPANS[0];
    this.now.textContent = now;
    this.draw();
  }

  top() {
    if (this.most) return this.most;
    const from = this.times.at(-1) - this.span;
    let most = 0;
    for (const { values } of this.series) {
      values.forEach((value, i) => {
        if (this.times[i] >= from && value > most) most = value;
      });
    }
    return roundUp(most);
  }

  draw() {
    const { width, times, series } = this;
    if (!width) return;
    const top = this.top(), end = times.at(-1) ?? 0;
    const x = (time) => LEFT + (width - LEFT - RIGHT) * (1 - (end - time) / this.span);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.min(value, top) / top);
    const svg = s("svg", { width, height: HEIGHT, role: "img", "aria-label": `${this.title}: ${this.now.textContent}` });
    for (const share of [0, 0.5, 1]) {
      svg.append(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(top * share), y2: y(top * share) }),
        s("text", { class: "tick", x: LEFT - 8, y: y(top * share) + 4, "text-anchor": "end" }, this.format(top * share)));
    }
    for (let back = 0; back <= this.span; back += this.span / 3) {
      svg.append(s("text", { class: "tick", x: x(end - back), y: HEIGHT - 6,
        "text-anchor": back === 0 ? "end" : back === this.span ? "start" : "middle" }, back === 0 ? "now" : `−${back % 60 === 0 ? `${back / 60} min` : `${back} s`}`));
    }
    series.forEach(({ values }, index) => {
      const points = values.map((value, i) => [x(times[i]), y(value)]).filter(([at]) => at >= LEFT - 0.5);
      svg.append(s("path", { class: `line ${colour(index)}${index >= COLOURS ? " dashed" : ""}`, d: line(points) }));
    });
    this.holder.replaceChildren(svg);
    this.showLegend();
  }

  showLegend() {
    const names = this.series.map(({ name }) => name).join("\n");
    if (names === this.named) return;
    this.named = names;
    this.legend.replaceChildren(...this.series.map(({ name }, index) => h("li", {},
      h("span", { class: `swatch ${colour(index)}${index >= COLOURS ? " dashed" : ""}`, "aria-hidden": "true" }), name)));
    this.legend.hidden = this.series.length < 2;
  }
}

// ---- lanes: who worked when (the original's Figure 3) ----

const SLACK_S = 0.05; // a slot is taken again before its last reply is written down
const LANE = 72, BAR_GAP = 1, HEAD = 24, GAP = 16;

// How many of the spans are open at each moment: [[time, count]…].
export function steps(spans) {
  const changes = spans.flatMap(([start, end]) => [[start, 1], [end, -1]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const out = [];
  let count = 0;
  for (const [time, change] of changes) {
    count += change;
    if (out.length > 0 && out.at(-1)[0] === time) out.at(-1)[1] = count;
    else out.push([time, count]);
  }
  return out;
}

// Rows so that spans of one row do not overlap: as many as there are slots in use.
function rowsOf(spans) {
  const ends = [];
  return [...spans].sort((a, b) => a[0] - b[0]).map(([start, end]) => {
    let row = ends.findIndex((at) => at <= start + SLACK_S);
    if (row < 0) row = ends.length;
    ends[row] = end;
    return [start, end, row];
  });
}

export class Lanes {
  constructor(title) {
    this.title = title;
    this.holder = h("div", { class: "chart-area" });
    this.gpus = h("p", { class: "hint", hidden: true }, "Dashed: what the driver tells of the worker's GPU.");
    this.element = h("figure", { class: "card lanes" }, h("figcaption", {}, h("span", {}, title)), this.holder, this.gpus);
    onWidth(this.holder, (width) => {
      this.width = width;
      this.draw();
    });
  }

  // lanes: [{name, note, short (of it), slots, spans: [[start, end]…] in seconds, gpu: [[time, share]…]}]
  update(lanes, span) {
    this.lanes = lanes;
    this.gpus.hidden = !lanes.some((lane) => lane.gpu?.length > 1);
    this.span = span;
    this.draw();
  }

  draw() {
    const { width, lanes } = this;
    if (!width || !lanes?.length) return;
    const each = HEAD + LANE + GAP, height = lanes.length * each + BOTTOM;
    const span = Math.max(this.span, 0.1);
    const x = (time) => LEFT + (width - LEFT - RIGHT) * time / span;
    const svg = s("svg", { width, height, role: "img", "aria-label": `${this.title}. ${lanes.map((lane) => `${lane.name}: ${lane.note}`).join(". ")}` });
    const step = roundUp(span / Math.max(2, Math.floor(width / 110))), digits = Math.max(0, Math.ceil(-Math.log10(step)));
    for (let time = 0; time <= span; time += step) {
      svg.append(s("line", { class: "grid", x1: x(time), x2: x(time), y1: HEAD, y2: height - BOTTOM }),
        s("text", { class: "tick", x: x(time), y: height - 6, "text-anchor": "middle" }, `${number(time, time > 0 ? digits : 0)} s`));
    }
    lanes.forEach((lane, index) => this.drawLane(svg, lane, index, index * each, x, width));
    this.holder.replaceChildren(svg);
  }

  drawLane(svg, lane, index, at, x, width) {
    const base = at + HEAD + LANE;
    const y = (share) => base - LANE * Math.min(1, share);
    svg.append(s("text", { class: "lane-name", x: LEFT, y: at + 16 }, lane.name),
      s("text", { class: "tick", x: width - RIGHT, y: at + 16, "text-anchor": "end" }, width < 480 ? lane.short : lane.note));
    for (const share of [0, 0.5, 1]) {
      svg.append(s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }),
        s("text", { class: "tick", x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}`));
    }
    const points = steps(lane.spans);
    if (points.length > 0) {
      let area = `M${x(points[0][0]).toFixed(1)} ${base}`, level = 0;
      for (const [time, count] of points) {
        area += `L${x(time).toFixed(1)} ${y(level / lane.slots).toFixed(1)}`;
        level = count;
        area += `L${x(time).toFixed(1)} ${y(level / lane.slots).toFixed(1)}`;
      }
      svg.append(s("path", { class: `area ${colour(index)}`, d: `${area}L${x(points.at(-1)[0]).toFixed(1)} ${base}Z` }));
    }
    const rows = Math.max(lane.slots, 1), tall = LANE / rows;
    for (const [start, end, row] of rowsOf(lane.spans)) {
      svg.append(s("rect", { class: `bar ${colour(index)}`, x: x(start), width: Math.max(1, x(end) - x(start) - 1),
        y: base - tall * (Math.min(row, rows - 1) + 1) + BAR_GAP, height: Math.max(1, tall - 2 * BAR_GAP), rx: 2 }));
    }
    if (lane.gpu?.length > 1) {
      svg.append(s("path", { class: "line gpu", d: line(lane.gpu.map(([time, share]) => [x(time), y(share)])) }));
    }
  }
}
