// The loss of a run as a drawing: every step faint, their trend as a line, held-out losses as dots, checkpoints as marks.
// It holds a bounded number of points, however long the run: where there are too many, neighbours become their mean.
import { element, t } from "./parts.js";

const MOST_POINTS = 400; // a node is about as many pixels wide
const SMOOTHING = 0.98; // of the trend: what a step leaves of the one before it
const HEIGHT = 130; // pixels

/** The losses of the steps of a run, in order. */
export class Losses {
  constructor() {
    this.forget();
  }

  forget() {
    this.last = -1; // step
    this.stride = 1; // steps that a point stands for
    /** @type {{step: number, loss: number, trend: number, count: number}[]} */
    this.points = [];
    /** @type {Map<number, number>} step -> held-out loss */
    this.heldOut = new Map();
    this.trend = this.weight = 0;
  }

  /** @param {Object[]} records of metrics; those that are known already may come again */
  add(records) {
    for (const { step, loss, held_out_loss: heldOut } of records) {
      if (Number.isFinite(heldOut)) this.heldOut.set(step, heldOut);
      if (step <= this.last) continue;
      this.last = step;
      if (!Number.isFinite(loss)) continue;
      // Divided by the weight so far, so that the first steps are not drawn towards 0 (as Adam does it).
      this.trend = SMOOTHING * this.trend + (1 - SMOOTHING) * loss;
      this.weight = SMOOTHING * this.weight + 1 - SMOOTHING;
      const open = this.points.at(-1);
      if (open && open.count < this.stride) merge(open, { step, loss, trend: this.trend / this.weight, count: 1 });
      else this.points.push({ step, loss, trend: this.trend / this.weight, count: 1 });
      if (this.points.length > MOST_POINTS) this.halve();
    }
  }

  halve() {
    const halved = [];
    for (let at = 0; at < this.points.length; at += 2) {
      halved.push(this.points[at]);
      if (this.points[at + 1]) merge(this.points[at], this.points[at + 1]);
    }
    this.points = halved;
    this.stride *= 2;
  }

  /** The step with the lowest held-out loss behind the first, which is the base model's own. */
  best() {
    let best = null;
    for (const [step, loss] of this.heldOut) if (step && (best === null || loss < this.heldOut.get(best))) best = step;
    return best;
  }
}

function merge(point, next) {
  const count = point.count + next.count;
  point.loss = (point.loss * point.count + next.loss * next.count) / count;
  Object.assign(point, { step: next.step, trend: next.trend, count });
}

/** The drawing, which can be read point by point with the pointer or the arrow keys. */
export class LossCurve {
  /** @param {Losses} losses */
  constructor(losses) {
    Object.assign(this, { losses, checkpoints: [], total: 1, at: null });
    const style = { width: "100%", height: `${HEIGHT}px`, transition: "color 1ms" }; // whose end tells of another theme
    this.canvas = element("canvas", { tabIndex: 0, role: "img", style });
    this.readout = element("div", { className: "quiet", "aria-live": "off" });
    // Asked for only when it changes: to ask the page for a width makes it lay itself out.
    this.width = 0;
    const redraw = (width) => {
      const shown = getComputedStyle(this.canvas);
      Object.assign(this, { width, colours: [shown.color, shown.getPropertyValue("--p-primary-color").trim() || "#6aa9ff"] });
      this.draw();
    };
    new ResizeObserver(([{ contentRect }]) => redraw(Math.round(contentRect.width))).observe(this.canvas);
    this.canvas.addEventListener("transitionend", () => redraw(this.width));
    this.canvas.addEventListener("pointermove", ({ offsetX }) => this.read(this.nearest(offsetX)));
    this.canvas.addEventListener("pointerleave", () => this.read(null));
    this.canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (!move) return;
      event.preventDefault();
      event.stopPropagation();
      const last = losses.points.length - 1;
      this.read(Math.max(0, Math.min(last, (this.at ?? last) + move)));
    });
  }

  /** The axis of a long run grows with it, so that its first steps are seen; @param {number[]} checkpoints steps */
  show(total, checkpoints) {
    const { points, heldOut, last: reached } = this.losses;
    Object.assign(this, { total: Math.max(Math.min(total, 2 ** Math.ceil(Math.log2(reached + 2))), reached, 1), checkpoints });
    const last = points.at(-1);
    this.canvas.ariaLabel = last
      ? t("Loss by step. Trend {trend} at step {step}, {n} held-out losses. Arrow keys read it.", {
          trend: last.trend.toFixed(3), step: last.step, n: heldOut.size,
        })
      : t("Loss by step: none yet.");
    if (this.at === null) this.read(null);
    else this.draw();
  }

  nearest(x) {
    const step = (x / (this.width || 1)) * this.total;
    const { points } = this.losses;
    if (!points.length) return null;
    let [low, high] = [0, points.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle].step < step) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  read(at) {
    this.at = this.losses.points.length ? at : null;
    this.readout.setAttribute("aria-live", this.at === null ? "off" : "polite"); // aloud where a person reads, not at every step
    const point = this.losses.points[this.at ?? this.losses.points.length - 1];
    const best = this.losses.best();
    const known = [...this.losses.heldOut.keys()].filter((step) => step <= (point?.step ?? 0)).pop();
    const heldOut = (step) => ({ step, loss: this.losses.heldOut.get(step).toFixed(3) });
    this.readout.textContent = !point
      ? t("No step is trained yet.")
      : [
          t("step {step}: loss {loss}, trend {trend}", { step: point.step, loss: point.loss.toFixed(3), trend: point.trend.toFixed(3) }),
          known !== undefined && t("held-out ● {loss} at {step}", heldOut(known)),
          this.at === null && best !== null && t("best {loss} at {step}", heldOut(best)),
        ]
          .filter(Boolean)
          .join(", ");
    this.draw();
  }

  draw() {
    const { width } = this;
    if (!width) return;
    const scale = 2; // of the pixels drawn to those of the page: sharp on fine screens and at 200 %
    if (this.canvas.width !== width * scale) Object.assign(this.canvas, { width: width * scale, height: HEIGHT * scale });
    const context = this.canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, HEIGHT);
    const [ink, accent] = this.colours;
    const { points, heldOut } = this.losses;
    const shown = [...points.map((point) => point.trend), ...heldOut.values()];
    if (!shown.length) return;
    const [least, most] = [Math.min(...shown), Math.max(...shown)];
    const spare = (most - least || Math.abs(most) || 1) * 0.25;
    const x = (step) => (step / this.total) * (width - 8) + 4;
    const y = (loss) => 8 + ((most + spare - loss) / (most - least + 2 * spare)) * (HEIGHT - 22);
    const line = (of, colour, alpha, thick) => {
      context.beginPath();
      for (const point of points) context.lineTo(x(point.step), y(of(point)));
      Object.assign(context, { strokeStyle: colour, globalAlpha: alpha, lineWidth: thick });
      context.stroke();
      context.globalAlpha = 1;
    };
    line((point) => point.loss, ink, 0.25, 1);
    line((point) => point.trend, accent, 1, 2);
    Object.assign(context, { fillStyle: ink, strokeStyle: ink, lineWidth: 1, font: "10px sans-serif" });
    for (const step of this.checkpoints) {
      context.beginPath(); // a triangle that stands on the axis
      context.moveTo(x(step), HEIGHT - 9);
      context.lineTo(x(step) - 4, HEIGHT - 2);
      context.lineTo(x(step) + 4, HEIGHT - 2);
      context.fill();
    }
    const best = this.losses.best();
    for (const [step, loss] of heldOut) {
      context.beginPath();
      context.arc(x(step), y(loss), 3, 0, 7);
      context.fill();
      if (step !== best) continue;
      context.beginPath();
      context.arc(x(step), y(loss), 6, 0, 7);
      context.stroke();
    }
    context.fillText((most + spare).toPrecision(3), 4, 10);
    context.fillText((least - spare).toPrecision(3), 4, HEIGHT - 14);
    const end = t("Step {step}", { step: this.total });
    context.fillText(end, width - 4 - context.measureText(end).width, HEIGHT - 14);
    const read = points[this.at];
    if (read) context.fillRect(x(read.step), 4, 1, HEIGHT - 14);
  }
}
