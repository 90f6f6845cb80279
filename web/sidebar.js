// The sidebar's tab "Impasto": the runs and the datasets there are, and what can be done with them, in place of lists of
// names with hashes. It reads the routes under /impasto/ when it is opened, when a graph has ended, and when asked to.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { openCompare } from "./compare.js";
import { addStyle, ask, counted, element, fetchRoute, forgetDismissal, phrase, picture, t } from "./parts.js";

const LOADER = "ImpastoTrainingRunLoader";
const CONTINUE = "ImpastoContinueTraining";
const WORKING = ["starting", "training", "stopping"];
const STATES = {
  new: phrase("not begun"),
  starting: phrase("starting"),
  training: phrase("training"),
  stopping: phrase("stopping"),
  stopped: phrase("stopped"),
  finished: phrase("finished"),
  failed: phrase("failed"),
};

addStyle(
  "sidebar",
  `
.impasto.sidebar { height: 100%; overflow: auto; padding: 12px; display: flex; flex-direction: column; gap: 8px; }
.impasto.sidebar h2 { font-size: 15px; margin: 8px 0 0; }
.impasto.sidebar .bar { display: flex; gap: 8px; align-items: center; }
.impasto.sidebar .bar input { flex: 1; min-width: 0; }
.impasto.sidebar ul { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column; gap: 8px; }
.impasto.sidebar li { display: grid; grid-template-columns: 72px 1fr; gap: 4px 10px; padding: 8px; border-radius: 6px;
  border: 1px solid var(--border-color, #4e4e4e); background: var(--comfy-menu-bg, #353535); }
.impasto.sidebar li img, .impasto.sidebar li .none { width: 72px; height: 72px; object-fit: cover; border-radius: 4px;
  background: var(--comfy-input-bg, #222); }
.impasto.sidebar li .words { min-width: 0; overflow-wrap: anywhere; }
.impasto.sidebar li .words strong { display: block; font-size: 13px; }
.impasto.sidebar li .actions { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 6px; }
`,
);

/** @param {number|null} seconds since 1970 */
const date = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "";

/** What a run has come to, in a line. */
function farOf(run) {
  const best = run.best_step ? t("best at step {step}", { step: run.best_step }) : "";
  const steps = run.total ? `${run.step} ${counted(run.total, phrase("of {n} step"), phrase("of {n} steps"))}` : "";
  return [t(STATES[run.state] ?? run.state), steps, best].filter(Boolean).join(", ");
}

/** Tell the person, by ComfyUI's own notes in the corner. */
function tell(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "Impasto", detail, life: severity === "error" ? 12_000 : 4_000 });
}

/** A node of this type in the middle of what is seen. */
function placed(type, offset = 0) {
  const node = window.LiteGraph.createNode(type);
  if (!node) throw new Error(t("ComfyUI has no node {type}: its log says why it is missing.", { type }));
  const { ds, canvas } = app.canvas;
  const { width, height } = canvas.getBoundingClientRect();
  node.pos = [width / 2 / ds.scale - ds.offset[0] - 150 + offset, height / 2 / ds.scale - ds.offset[1] - 50];
  app.canvas.graph.add(node);
  return node;
}

/** Have a Training Run Loader load this run. */
function load(run, node) {
  const widget = node.widgets.find(({ name }) => name === "run_id");
  const { values } = widget.options;
  if (Array.isArray(values) && !values.includes(run.id)) values.push(run.id); // made after the page got its lists
  widget.value = run.id;
  widget.callback?.(run.id);
  app.canvas.setDirty(true, true);
}

/** Put it into the graph's Training Run Loader: the selected one, else the only one, else a new one. */
function use(run) {
  const there = app.canvas.graph.nodes.filter((node) => node.comfyClass === LOADER);
  const chosen = there.find((node) => app.canvas.selectedItems?.has(node));
  load(run, chosen ?? (there.length === 1 ? there[0] : placed(LOADER)));
}

/** Two nodes that train this run for longer; the model and the features are for the person to connect. */
function goOn(run) {
  const loader = placed(LOADER, -180);
  load(run, loader);
  const longer = placed(CONTINUE, 180);
  loader.connect(0, longer, longer.inputs.findIndex(({ name }) => name === "run"));
  app.canvas.setDirty(true, true);
}

async function compare(run) {
  const { grids } = await ask(`/runs/${encodeURIComponent(run.id)}/grids`);
  const shown = grids.filter((grid) => grid.columns.length > 1);
  if (!shown.length) throw new Error(t("{name} has no grid yet: connect it to Progress Grid, and queue that.", run));
  const sampling = JSON.stringify(shown[0].sampling);
  const strengths = shown.filter((grid) => JSON.stringify(grid.sampling) === sampling);
  openCompare(shown[0], strengths.sort((one, other) => one.strength - other.strength));
}

async function openGraph(run) {
  const response = await fetchRoute(`/impasto/runs/${encodeURIComponent(run.id)}/files/workflow.json`);
  if (!response.ok) throw new Error(t("{name} kept no graph: it was queued over the API.", run));
  await app.loadGraphData(await response.json(), true, true, run.name);
}

class Sidebar {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.search = element("input", { type: "search", placeholder: t("Search runs and datasets"), "aria-label": t("Search") });
    this.search.addEventListener("input", () => this.show());
    this.runs = element("ul", { "aria-label": t("Training runs") });
    this.datasets = element("ul", { "aria-label": t("Datasets") });
    this.said = element("p", { className: "quiet", role: "status", "aria-live": "polite", style: { margin: "0" } });
    const refresh = () => {
      forgetDismissal();
      this.read();
    };
    const again = element("button", { onClick: refresh }, t("Refresh"));
    const bar = element("div", { className: "bar" }, this.search, again);
    const heading = (text) => element("h2", {}, text);
    this.root = element("div", { className: "impasto sidebar" }, bar, this.said, heading(t("Training runs")), this.runs);
    this.root.append(heading(t("Datasets")), this.datasets);
    for (const kind of ["keydown", "keyup", "paste", "copy"]) {
      this.root.addEventListener(kind, (event) => event.stopPropagation());
    }
    place.replaceChildren(this.root);
    this.found = { runs: [], datasets: [] };
    refresh();
  }

  async read() {
    try {
      const [{ runs }, { datasets }] = await Promise.all([ask("/runs"), ask("/datasets")]);
      this.found = { runs, datasets };
      this.show();
    } catch (error) {
      this.said.textContent = error.message;
    }
  }

  show() {
    const words = this.search.value.trim().toLowerCase();
    const [runs, datasets] = [this.found.runs, this.found.datasets].map((all) =>
      all.filter(({ id = "", name }) => `${id} ${name}`.toLowerCase().includes(words)),
    );
    this.runs.replaceChildren(...runs.map((run) => this.run(run)));
    this.datasets.replaceChildren(...datasets.map((dataset) => this.dataset(dataset)));
    const none = t("Nothing is there yet: open Impasto's first template, and queue it.");
    const some = [counted(runs.length, phrase("{n} run"), phrase("{n} runs"))];
    const all = [...some, counted(datasets.length, phrase("{n} dataset"), phrase("{n} datasets"))].join(", ");
    this.said.textContent = this.found.runs.length + this.found.datasets.length ? all : none;
  }

  run(run) {
    const act = (label, work, why = "") => {
      const button = element("button", { title: why, "aria-label": `${label}: ${run.id}` }, label);
      button.addEventListener("click", async () => {
        button.disabled = true;
        try {
          await work(run);
        } catch (error) {
          tell("error", error.message);
        }
        button.disabled = false;
      });
      return button;
    };
    const actions = element(
      "div",
      { className: "actions" },
      act(t("Use"), use, t("Put it into Training Run Loader")),
      act(t("Continue"), goOn, t("Add the nodes that train it for longer")),
      act(t("Compare"), compare, t("Base model and checkpoints under one slider")),
      act(t("Open graph"), openGraph, t("The graph that it was trained by")),
    );
    const remove = element("button", { "aria-label": t("Delete: {id}", run) }, t("Delete…"));
    remove.addEventListener("click", () => this.confirm(run, actions, remove));
    remove.disabled = WORKING.includes(run.state) && Date.now() / 1000 - (run.updated ?? 0) < 120;
    actions.append(remove);
    const words = element("div", { className: "words" }, element("strong", {}, run.name), farOf(run));
    words.append(element("div", { className: "quiet" }, [date(run.updated), run.id].filter(Boolean).join(" · ")));
    if (run.error) words.append(element("div", { className: "fault" }, run.error.split("\n")[0].slice(0, 200)));
    return element("li", {}, this.picture(run.thumbnail, t("The last samples of {name}", run)), words, actions);
  }

  dataset(dataset) {
    const counts = [counted(dataset.count, phrase("{n} picture"), phrase("{n} pictures"))];
    counts.push(t("{n} captioned", { n: dataset.captioned.toLocaleString() }));
    if (dataset.refused) counts.push(t("{n} refused", { n: dataset.refused.toLocaleString() }));
    const words = element("div", { className: "words" }, element("strong", {}, dataset.name), counts.join(", "));
    words.append(element("div", { className: "quiet" }, date(dataset.updated)));
    if (dataset.error) words.append(element("div", { className: "fault" }, dataset.error));
    return element("li", {}, this.picture(dataset.cover, t("A picture of {name}", dataset)), words);
  }

  picture(route, alt) {
    if (!route) return element("div", { className: "none", "aria-hidden": "true" });
    return picture(route, { alt, loading: "lazy" });
  }

  /** Ask in the row itself, with the focus on what does no harm. */
  confirm(run, actions, remove) {
    const before = [...actions.children];
    const back = (focused) => {
      actions.replaceChildren(...before);
      focused?.focus();
    };
    const keep = element("button", { onClick: () => back(remove) }, t("Keep it"));
    const go = element("button", { className: "fault" }, t("Delete for good"));
    go.addEventListener("click", async () => {
      try {
        await ask(`/runs/${encodeURIComponent(run.id)}/delete`, { method: "POST", body: { confirm: run.id } });
        tell("success", t("{name} is deleted. Its published LoRAs are where they were.", run));
        this.search.focus();
        await this.read();
      } catch (error) {
        back(remove);
        tell("error", error.message);
      }
    });
    const warning = t("Checkpoints, samples and grids of this run go; LoRAs in output/loras stay.");
    actions.replaceChildren(element("span", { role: "alert", style: { flexBasis: "100%" } }, warning), keep, go);
    keep.focus();
  }
}

app.registerExtension({
  name: "Impasto.Sidebar",
  setup() {
    /** @type {Sidebar|null} */
    let shown = null;
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(kind, () => shown?.root.isConnected && shown.read());
    }
    app.extensionManager.registerSidebarTab({
      id: "impasto",
      icon: "pi pi-palette",
      title: "Impasto",
      tooltip: t("Impasto: training runs and datasets"),
      type: "custom",
      render: (place) => {
        shown = new Sidebar(place);
      },
      destroy: () => {
        shown = null;
      },
    });
  },
});
