// A list of pictures of which only those in sight are elements, so that thousands scroll as well as ten.
import { addStyle, element } from "./parts.js";

const OVERSCAN = 6; // rows drawn beyond what is in sight, so that a turn of the wheel meets no gap

addStyle(
  "picture-list",
  `
.impasto .pictures { position: relative; overflow: auto; height: 100%; border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 4px; contain: strict; outline-offset: -2px; }
.impasto .pictures > div { position: relative; }
.impasto .pictures [role=option] { position: absolute; left: 0; right: 0; display: flex; gap: 8px; padding: 4px 6px;
  align-items: center; cursor: pointer; overflow: hidden; border-left: 4px solid transparent; }
.impasto .pictures [role=option][aria-selected=true] { border-left-color: var(--p-primary-color, #6aa9ff);
  background: var(--comfy-input-bg, #222); }
.impasto .pictures img { width: 64px; height: 64px; object-fit: contain; flex: none; background: #8883; }
.impasto .pictures .words { overflow: hidden; min-width: 0; flex: 1; }
.impasto .pictures .words p { margin: 0; overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical;
  -webkit-line-clamp: 2; }
`,
);

export class PictureList {
  /**
   * @param {string} label what a screen reader calls it
   * @param {number} height of a row, in pixels
   * @param {(item: any) => Node[]} draw what a row shows
   * @param {(item: any, index: number) => void} onChoose a row was chosen, by pointer or key
   */
  constructor(label, height, draw, onChoose) {
    Object.assign(this, { height, draw, onChoose, items: [], chosen: -1, drawn: new Map(), asked: false });
    this.inside = element("div");
    this.element = element("div", { className: "pictures", role: "listbox", tabIndex: 0, "aria-label": label }, this.inside);
    this.element.addEventListener("scroll", () => this.later());
    this.element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.later()).observe(this.element);
    this.id = `impasto-row-${Math.random().toString(36).slice(2)}`;
  }

  /** Show these; `chosen` is the index of the one that is chosen, -1 for none. */
  show(items, chosen = -1) {
    this.items = items;
    this.inside.style.height = `${items.length * this.height}px`;
    this.redraw();
    this.mark(Math.min(chosen, items.length - 1));
  }

  /** Draw anew what is in sight. */
  redraw() {
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
    this.fill();
  }

  later() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.fill();
    });
  }

  fill() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.height) - OVERSCAN);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / this.height) + OVERSCAN);
    for (const [index, row] of this.drawn) {
      if (index < first || index >= last) {
        row.remove();
        this.drawn.delete(index);
      }
    }
    for (let index = first; index < last; index++) if (!this.drawn.has(index)) this.add(index);
  }

  add(index) {
    const row = element(
      "div",
      {
        id: `${this.id}-${index}`,
        role: "option",
        "aria-selected": index === this.chosen,
        "aria-posinset": index + 1,
        "aria-setsize": this.items.length,
        style: { top: `${index * this.height}px`, height: `${this.height}px` },
        onClick: () => this.choose(index),
      },
      ...this.draw(this.items[index]),
    );
    this.drawn.set(index, row);
    this.inside.append(row);
  }

  /** Choose a row, bring it into sight, and tell. */
  choose(index) {
    if (!this.items.length) return;
    this.mark(Math.max(0, Math.min(index, this.items.length - 1)));
    this.onChoose(this.items[this.chosen], this.chosen);
  }

  mark(index) {
    this.drawn.get(this.chosen)?.setAttribute("aria-selected", "false");
    this.chosen = index;
    if (index < 0) {
      this.element.removeAttribute("aria-activedescendant");
      return;
    }
    const top = index * this.height;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.element.scrollTop = top + this.height - clientHeight;
    this.fill();
    this.drawn.get(index)?.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-activedescendant", `${this.id}-${index}`);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.choose(this.chosen + steps[event.key]);
  }
}
