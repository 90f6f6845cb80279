// Two pictures of a grid under one slider: a button on the nodes that make grids opens it. What lies where comes with the
// node's result, so that it is there again after a reload.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addButton, addStyle, element, nodeOf, openDialog, phrase, showPicture, t } from "./parts.js";

const BUTTON = phrase("Compare pictures");

addStyle(
  "compare",
  `
.impasto .compare button[aria-pressed="true"] { border-color: var(--input-text, #ddd); font-weight: bold; }
.impasto .compare { display: grid; grid-template: auto 1fr auto / 1fr; gap: 8px; height: 100%; }
.impasto .compare .choices { display: flex; flex-wrap: wrap; gap: 8px 16px; align-items: center; }
.impasto .compare .choices label { display: flex; gap: 6px; align-items: center; min-width: 0; }
.impasto .compare .choices select { max-width: 46ch; }
.impasto .compare .stage { position: relative; justify-self: center; height: 100%; max-width: 100%; min-height: 0;
  overflow: hidden; touch-action: none; cursor: ew-resize; }
.impasto .compare .stage img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; user-select: none; }
.impasto .compare .stage .seam { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px #000; pointer-events: none; }
.impasto .compare .stage .name { position: absolute; top: 6px; padding: 2px 8px; border-radius: 4px; background: #000b;
  color: #fff; pointer-events: none; max-width: 45%; }
.impasto .compare .sliders { display: grid; grid-template-columns: auto 1fr minmax(12ch, auto); gap: 4px 12px; align-items: center; }
`,
);

/**
 * @typedef {{text: string, note: string, marked: boolean}} Label
 * @typedef {{filename: string, subfolder: string, type: string}} Place
 * @typedef {{title: string, rows: Label[], columns: Label[], cells: (Place|string|null)[][][], strength?: number}} Grid
 */

const named = ({ text, note, marked }) => `${text}${note ? `, ${note}` : ""}${marked ? " ★" : ""}`;

/** @param {Place|string|null} place a string is a route's address */
const source = (place) => (!place || typeof place === "string" ? place || "" : `/view?${new URLSearchParams(place)}`);

function select(label, options, chosen, onChange) {
  const list = element("select", {}, ...options.map((text, value) => element("option", { value }, text)));
  list.value = String(chosen);
  list.addEventListener("change", () => onChange(Number(list.value)));
  return { list, shown: element("label", {}, label, list) };
}

/** Buttons, one for each strength of the LoRA, which is pressed for the one that is shown. */
function strengthRow(grid, strengths, choose) {
  const buttons = strengths.map((other) => {
    const pressed = String(other === grid);
    return element("button", { "aria-pressed": pressed, onClick: () => choose(other) }, other.strength.toFixed(2));
  });
  return element("span", { role: "group", "aria-label": t("Strength of the LoRA") }, `${t("Strength")} `, ...buttons);
}

/**
 * The dialog of one grid.
 * @param {Grid} grid
 * @param {Grid[]} [strengths] the same with the LoRA at other strengths, itself among them: a row to choose from
 * @param {Object<string, number>} [begun] what is chosen when it opens
 */
export function openCompare(grid, strengths = [], begun = {}) {
  const best = grid.columns.findIndex((column) => column.marked);
  const state = { row: 0, seed: 0, left: 0, right: best > 0 ? best : grid.columns.length - 1, share: 50 };
  const fits = (begun.row ?? 0) < grid.rows.length && Math.max(begun.left ?? 0, begun.right ?? 0) < grid.columns.length;
  if (fits) Object.assign(state, begun);
  const [under, over] = [element("img", { draggable: false }), element("img", { draggable: false })];
  const seam = element("div", { className: "seam" });
  const names = ["left", "right"].map((side) => element("div", { className: "name", style: { [side]: "6px" } }));
  const stage = element("div", { className: "stage" }, under, over, seam, ...names);
  const columns = grid.columns.map(named);
  const left = select(t("Left"), columns, state.left, (value) => set({ left: value }));
  const row = select(t("Row"), grid.rows.map(named), state.row, (value) => set({ row: value }));
  const seeds = Math.max(...grid.cells.flat().map((cell) => cell.length));
  const numbers = [...Array(seeds).keys()].map((n) => t("{n} of {total}", { n: n + 1, total: seeds }));
  const seed = select(t("Picture"), numbers, 0, (value) => set({ seed: value }));
  seed.shown.hidden = seeds < 2;
  const range = (label, max, value, change) => {
    const input = element("input", { type: "range", min: "0", max: String(max), value: String(value), "aria-label": label });
    input.addEventListener("input", () => change(Number(input.value)));
    return input;
  };
  const slider = range(t("How much of the left picture is seen"), 100, state.share, (value) => set({ share: value }));
  const scrubber = range(t("Column on the right"), columns.length - 1, state.right, (value) => set({ right: value }));
  const told = element("span", { "aria-live": "polite" });
  const sliders = element("div", { className: "sliders" }, t("Seam"), slider, element("span"), t("Right"), scrubber, told);
  const choices = element("div", { className: "choices" }, row.shown, left.shown, seed.shown);
  const another = (other) => {
    close();
    openCompare(other, strengths, { row: state.row, left: state.left, right: state.right, share: state.share });
  };
  if (strengths.length > 1) choices.append(strengthRow(grid, strengths, another));
  const { body, close } = openDialog(t("Compare: {title}", { title: grid.title }));
  body.append(element("div", { className: "compare" }, choices, stage, sliders));

  function set(change) {
    Object.assign(state, change);
    const cells = grid.cells[state.row];
    const sides = [state.left, state.right].map((column) => cells[column]?.[state.seed] ?? null);
    for (const [image, place, column] of [
      [over, sides[0], state.left],
      [under, sides[1], state.right],
    ]) {
      const wanted = source(place);
      if (image.dataset.route !== wanted) showPicture(image, wanted);
      image.alt = place ? `${grid.rows[state.row].text}, ${columns[column]}` : t("no picture yet");
    }
    names[0].textContent = `${columns[state.left]}${sides[0] ? "" : `: ${t("no picture yet")}`}`;
    names[1].textContent = `${columns[state.right]}${sides[1] ? "" : `: ${t("no picture yet")}`}`;
    told.textContent = columns[state.right];
    over.style.clipPath = `inset(0 ${100 - state.share}% 0 0)`;
    seam.style.left = `${state.share}%`;
    slider.value = String(state.share);
  }

  const follow = (event) => {
    const { left: edge, width } = stage.getBoundingClientRect();
    set({ share: Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - edge)) / width))) });
  };
  under.addEventListener("load", () => {
    stage.style.aspectRatio = `${under.naturalWidth} / ${under.naturalHeight}`; // so that the seam moves over the picture
  });
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => stage.hasPointerCapture(event.pointerId) && follow(event));
  set({});
  scrubber.focus();
}

/** A button on a node that has made a grid; @param {Grid} grid */
function offer(node, grid) {
  const known = node.widgets?.find((widget) => widget.name === BUTTON);
  (known ?? addButton(node, BUTTON, null)).callback = () => openCompare(grid);
}

app.registerExtension({
  name: "Impasto.Compare",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeOf(detail.display_node ?? detail.node);
      const grid = detail.output?.impasto_grid?.[0];
      if (node && grid?.columns?.length > 1) offer(node, grid);
    });
  },
});
