// Quality Filter's thresholds on its own measurements, in a dialog: a histogram for each, its threshold to drag, and beside
// them what would be refused. It changes the node's widgets and its lines of `keep`, and filters nothing itself.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addButton, addStyle, ask, element, isLinked, nodeOf, openDialog, phrase, picture, setWidget, t, widgetOf } from "./parts.js";
import { PictureList } from "./picture_list.js";

const NODE = "ImpastoQualityFilter";
const ROW = 84; // pixels
const BINS = 48;
const CHART = { width: 480, height: 64 }; // of a histogram's own coordinates
const PAUSE = 150; // milliseconds between two questions to the server while a threshold is dragged
const DIGITS = 12; // of a picture's hash, in a line of `keep`
const SVG = "http://www.w3.org/2000/svg";

addStyle(
  "filter-bench",
  `
.impasto .bench { display: grid; grid-template-columns: minmax(320px, 1fr) minmax(280px, 1fr); gap: 12px; height: 100%; }
.impasto .bench > div { display: flex; flex-direction: column; gap: 8px; min-height: 0; overflow: auto; padding: 2px; }
.impasto .bench fieldset { border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; margin: 0; padding: 4px 8px; min-width: 0;
  flex: none; }
.impasto .bench svg { display: block; width: 100%; height: 64px; touch-action: none; cursor: ew-resize; }
.impasto .bench .kept { fill: var(--input-text, #ddd); opacity: 0.55; }
.impasto .bench .out { fill: var(--error-text, #ff6b6b); }
.impasto .bench line { stroke: var(--input-text, #ddd); stroke-width: 2; stroke-dasharray: 5 3; }
.impasto .bench .ends { display: flex; justify-content: space-between; gap: 8px; }
.impasto .bench input[type=range] { width: 100%; margin: 0; padding: 0; }
.impasto .bench label { display: flex; gap: 8px; align-items: center; }
.impasto .bench input[type=number] { width: 8em; }
`,
);

/** The dataset that a node filtered last. @type {WeakMap<object, {name: string, revision: string}>} */
const filtered = new WeakMap();

const shown = (value) => String(Number(value.toPrecision(3)));

/** A histogram with a threshold that is dragged, typed, or moved by the arrow keys. */
class Threshold {
  constructor({ rule, called, widget }, values, node, onChange) {
    Object.assign(this, { rule, node, onChange, values: values.filter((value) => value !== null) });
    this.most = rule.startsWith("max");
    const { min, max, step, step2 } = widgetOf(node, rule).options;
    const name = widgetOf(node, rule).label ?? widget; // in the page's language, as on the node
    this.value = Number(widgetOf(node, rule).value);
    const low = Math.min(...this.values, this.value);
    const high = Math.max(...this.values, this.value);
    const room = (high - low || 1) * 0.05; // so that the threshold can stand beside all of them
    this.low = Math.max(min, low - room);
    this.high = Math.min(max, high + room);
    this.step = Number(step2 ?? step / 10) || 0.01;
    const bound = { min, max, step: this.step, disabled: isLinked(node, rule) };
    this.number = element("input", { type: "number", "aria-label": name, ...bound, onChange: () => this.set(Number(this.number.value)) });
    this.range = element("input", {
      type: "range", "aria-label": t("{name}, threshold", { name }), ...bound, min: this.low, max: this.high, step: "any",
      onInput: () => this.set(Number(this.range.value)), onKeydown: (event) => this.key(event),
    });
    this.out = element("span", { className: "quiet" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${CHART.width} ${CHART.height}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true"); // the slider under it says the same
    this.svg.addEventListener("pointerdown", (event) => this.drag(event));
    const ends = element("div", { className: "ends quiet" }, element("span", {}, shown(low)), this.out, element("span", {}, shown(high)));
    const label = element("label", {}, `${t(called)}: ${name}`, this.number);
    this.element = element("fieldset", {}, label, this.svg, this.range, ends);
    this.draw();
  }

  refuses(value) {
    return this.most ? value > this.value : value < this.value;
  }

  x(value) {
    return ((value - this.low) / (this.high - this.low || 1)) * CHART.width;
  }

  draw() {
    const width = (this.high - this.low || 1) / BINS;
    const bins = Array.from({ length: BINS }, () => [0, 0]);
    for (const value of this.values) {
      const place = Math.max(0, Math.min(BINS - 1, Math.floor((value - this.low) / width)));
      bins[place][this.refuses(value) ? 1 : 0] += 1;
    }
    const highest = Math.max(1, ...bins.map(([kept, out]) => kept + out));
    const part = (tag, attributes) => {
      const made = document.createElementNS(SVG, tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    const bars = bins.flatMap(([kept, out], place) => {
      const [left, up] = [(place * CHART.width) / BINS, CHART.height / highest];
      const bar = (count, below, kind) =>
        count && part("rect", { x: left, y: CHART.height - (below + count) * up, width: CHART.width / BINS - 1, height: count * up, class: kind });
      return [bar(kept, 0, "kept"), bar(out, kept, "out")].filter(Boolean);
    });
    const at = Math.max(0, Math.min(CHART.width, this.x(this.value)));
    this.svg.replaceChildren(...bars, part("line", { x1: at, x2: at, y1: 0, y2: CHART.height }));
    this.number.value = this.range.value = this.value;
    const counts = { n: this.values.filter((value) => this.refuses(value)).length, total: this.values.length, value: shown(this.value) };
    this.range.setAttribute("aria-valuetext", t("{value}; {n} refused", counts));
    this.out.textContent = this.most ? t("{n} of {total} over", counts) : t("{n} of {total} under", counts);
  }

  set(value) {
    if (!Number.isFinite(value) || isLinked(this.node, this.rule)) return this.draw();
    const { min, max } = widgetOf(this.node, this.rule).options;
    const digits = Math.max(0, Math.ceil(-Math.log10(this.step)));
    const stepped = Number((Math.round(value / this.step) * this.step).toFixed(digits));
    this.value = Math.max(min, Math.min(max, stepped));
    setWidget(this.node, this.rule, this.value);
    this.draw();
    this.onChange();
  }

  /** The range has no steps of its own, so that it can begin between two; a key moves by a step of the widget. */
  key(event) {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.set(this.value + steps[event.key] * this.step);
  }

  drag(event) {
    const move = ({ clientX }) => {
      const { left, width } = this.svg.getBoundingClientRect();
      this.set(this.low + ((clientX - left) / width) * (this.high - this.low));
    };
    const end = () => {
      this.svg.removeEventListener("pointermove", move);
      this.svg.removeEventListener("pointerup", end);
      this.svg.removeEventListener("pointercancel", end);
    };
    this.svg.setPointerCapture(event.pointerId);
    this.svg.addEventListener("pointermove", move);
    this.svg.addEventListener("pointerup", end);
    this.svg.addEventListener("pointercancel", end);
    move(event);
  }
}

class FilterBench {
  constructor(node, { name, revision }) {
    Object.assign(this, { node, name, revision, refused: [], asked: 0, known: new Map() });
    this.count = element("p", { role: "status", "aria-live": "polite", style: { margin: "0", fontSize: "14px" } }, t("Reading the measurements …"));
    this.list = new PictureList(t("Refused and kept pictures"), ROW, (one) => this.drawRow(one), () => {});
    this.list.element.addEventListener("keydown", (event) => {
      if ((event.key !== "Enter" && event.key !== " ") || event.target !== this.list.element || this.list.chosen < 0) return;
      event.preventDefault();
      this.toggle(this.list.items[this.list.chosen]);
    });
    this.charts = element("div", {});
    const how = t("Drag a dashed line, or use the sliders. Queue the graph to filter so.");
    const hint = element("p", { className: "quiet", style: { margin: "0" } }, how);
    const { body } = openDialog(t("Thresholds for {name}", { name }));
    body.append(element("div", { className: "bench" }, this.charts, element("div", {}, this.count, hint, this.list.element)));
    this.load();
  }

  path(what) {
    return `/datasets/${encodeURIComponent(this.name)}/${what}?revision=${this.revision}`;
  }

  async load() {
    try {
      const { rules, values, pictures, thresholds, unmeasured } = await ask(this.path("measurements"));
      this.known = new Map(pictures.map((one) => [one.picture, one.known_as]));
      this.names = thresholds;
      for (const rule of rules) {
        if (!widgetOf(this.node, rule.rule)) continue;
        const chart = new Threshold(rule, values[rule.rule], this.node, () => this.later());
        this.charts.append(chart.element);
      }
      this.unmeasured = unmeasured;
      await this.judge();
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.count.className = "fault";
    this.count.textContent = error.message;
  }

  later() {
    if (this.waiting) return;
    this.waiting = setTimeout(() => {
      this.waiting = null;
      this.judge().catch((error) => this.fail(error));
    }, PAUSE);
  }

  /** Ask what the widgets as they stand would refuse; of several answers the last that was asked for counts. */
  async judge() {
    const number = ++this.asked;
    const keep = String(widgetOf(this.node, "keep")?.value ?? "");
    const values = this.names.map((name) => [name, widgetOf(this.node, name)?.value]).filter(([, value]) => value !== undefined);
    const body = { thresholds: Object.fromEntries(values), keep };
    const { total, refused, unmeasured } = await ask(this.path("refused"), { method: "POST", body });
    if (number !== this.asked) return;
    const kept = [...this.known.keys()].filter((picture) => this.lineOf(picture) !== undefined);
    const byYou = kept.map((picture) => ({ picture, known_as: this.known.get(picture), reason: t("kept by you"), kept: true }));
    const chosen = this.list.items[this.list.chosen]?.picture;
    const items = [...byYou, ...refused];
    this.list.show(items, items.findIndex(({ picture }) => picture === chosen));
    const later = unmeasured ? `; ${t("{n} not measured yet, known after queueing", { n: unmeasured })}` : "";
    this.count.className = "";
    this.count.textContent = t("{kept} of {total} kept, {n} refused", { kept: total - refused.length, total, n: refused.length }) + later;
  }

  drawRow(one) {
    const small = `/impasto/datasets/${encodeURIComponent(this.name)}/thumbnails/${one.picture}`;
    const words = element("div", { className: "words" }, element("p", {}, one.known_as), element("p", { className: "quiet" }, one.reason));
    const button = element(
      "button",
      { type: "button", tabIndex: -1, disabled: isLinked(this.node, "keep"), title: t("Enter"), onClick: () => this.toggle(one) },
      one.kept ? t("Take back") : t("Keep this one anyway"),
    );
    return [picture(small, { alt: "", decoding: "async" }), words, button];
  }

  lines() {
    return String(widgetOf(this.node, "keep")?.value ?? "").split("\n").filter((line) => line.trim());
  }

  /** The line of `keep` that names a picture; undefined where none does. */
  lineOf(picture) {
    return this.lines().find((line) => picture.startsWith(line.trim().split(/\s/)[0].toLowerCase()));
  }

  toggle(one) {
    if (isLinked(this.node, "keep")) return;
    const held = this.lineOf(one.picture);
    const called = one.known_as.split(" ").slice(1).join(" ");
    const line = `${one.picture.slice(0, DIGITS)} ${called}`.trim();
    const lines = held === undefined ? [...this.lines(), line] : this.lines().filter((other) => other !== held);
    setWidget(this.node, "keep", lines.join("\n"));
    this.judge().catch((error) => this.fail(error));
  }
}

function openBench(node) {
  const dataset = filtered.get(node);
  if (dataset) return new FilterBench(node, dataset);
  const { body } = openDialog(t("Thresholds"));
  const why = t("Nothing is measured yet. Queue the graph once: the pictures are measured then, and what was measured is kept.");
  body.append(element("p", {}, why));
}

app.registerExtension({
  name: "Impasto.FilterBench",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeOf(detail.display_node ?? detail.node);
      const dataset = detail.output?.impasto_filtered?.[0];
      if (node && dataset) filtered.set(node, dataset);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addButton(node, phrase("Set thresholds on the pictures …"), () => openBench(node));
  },
});
