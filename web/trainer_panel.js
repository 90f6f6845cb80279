// The panel of the nodes that train: how far the run is, its loss, samples, memory and log, and what can be asked of its
// trainer. All of it is read from the run's folder over the routes, so that a page loaded again, a second one, a restarted
// server and a run given back show the same. Which run a node is about is told by the node, and kept by this browser.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { LossCurve, Losses } from "./loss_curve.js";
import { addStyle, ask, element, nodeOf, openDialog, phrase, picture, t } from "./parts.js";

const TRAINERS = ["ImpastoFluxLoraTrainer", "ImpastoContinueTraining"];
const WIDGET = "impasto_training";
const HEIGHT = 400; // pixels; what is more can be scrolled
const EVERY = 1_000; // milliseconds between two looks at a run, of two requests each
const PATIENCE = 120_000; // milliseconds for which a node that has named its run may take to start a trainer
const STRIP = 16; // samples of a prompt that a node shows; the dialog has all
const KEPT = "impasto.runs"; // in this browser's storage: graph -> node -> run
const MOST_GRAPHS = 50;
const LOADERS = ["LoraLoader", "LoraLoaderModelOnly"];
const ASKED = {
  sample: [phrase("Sample now"), phrase("Samples are drawn after this step.")],
  save: [phrase("Save now"), phrase("A checkpoint is saved and measured after this step.")],
  finish: [phrase("Finish after this step"), phrase("Finishing after this step: it is saved, measured and published.")],
  stop: [phrase("Stop"), phrase("Stopping after this step, then saving.")],
};

addStyle(
  "trainer",
  `.impasto-trainer { display: flex; flex-direction: column; gap: 6px; width: 100%; height: 100%; min-height: ${HEIGHT - 20}px;
    overflow: auto; padding: 6px 8px; user-select: text; }
  .impasto-trainer > * { flex: none; min-width: 0; max-width: 100%; }
  .impasto-trainer select { max-width: 100%; }
  .impasto-trainer progress { width: 100%; height: 8px; }
  .impasto-trainer .row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
  .impasto-trainer .strip { display: flex; gap: 4px; overflow-x: auto; }
  .impasto button.sample { padding: 0; flex: none; position: relative; overflow: hidden; }
  .impasto button.sample img { position: absolute; top: 0; height: 100%; max-width: none; }
  .impasto-trainer pre { margin: 0; max-height: 110px; overflow: auto; white-space: pre-wrap; font: 11px monospace; }
  /* Nodes 2.0 asks no node whether it wants what it sends while it works a second time, with its size in pixels under it. */
  [data-testid^=node-body]:has(.impasto-trainer) > :is(img, img + div) { display: none; }`,
);

/** Seconds as `progress.duration` of the server says them. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

/** What a run's summary says of its state, for people; `returned`: it was finished before, and the node gave it back. */
export function stateOf(run, waited = 0, returned = false) {
  const { state, step, active } = run;
  const clock = waited > 3 ? `, ${duration(waited)}` : "";
  if (active?.stopping) return t("Stopping after this step, then saving");
  if (active && state === "training" && step > 0) {
    const left = Number.isFinite(run.seconds_left) ? `, ${t("{time} left", { time: duration(run.seconds_left) })}` : "";
    return t("Training: step {step} of {total}", run) + left;
  }
  if (active) return `${(state === "starting" && run.doing) || t("Starting the trainer")}${clock}`;
  if (state === "finished" && returned) return t("Trained before, given back as it is: step {step} of {total}", run);
  if (state === "finished" && run.finished_early) return t("Finished early: step {step} of {total}", run);
  if (state === "finished") return t("Finished: step {step} of {total}", run);
  if (state === "failed") return t("Failed at step {step} of {total}", run);
  if (state === "new") return t("Waiting for its turn");
  const saved = { ...run, saved: Math.max(0, ...(run.checkpoints ?? [])) };
  if (state === "stopped") return t("Stopped, saved at step {saved} of {total}. Queue again to go on", saved);
  return t("Interrupted, saved at step {saved} of {total}. Queue again to go on", saved);
}

/** One prompt's part of a picture that shows the samples of all prompts side by side. */
function sampleButton(sample, place, height, title, onClick) {
  const whole = picture(sample.pictures[0], { alt: "" });
  const size = { height: `${height}px`, width: `${height}px` };
  const button = element("button", { className: "sample", title, "aria-label": title, onClick, style: size }, whole);
  whole.onload = () => {
    button.style.width = `${Math.round((height * whole.naturalWidth) / sample.count / whole.naturalHeight)}px`;
  };
  Object.assign(whole.style, { width: `${sample.count * 100}%`, left: `${-place * 100}%` });
  return button;
}

export class TrainerPanel {
  constructor(node) {
    Object.assign(this, { node, run: null, losses: new Losses(), until: 0, since: 0, drawn: "" });
    this.curve = new LossCurve(this.losses);
    this.state = element("div", { role: "status", "aria-live": "off", style: { fontWeight: "bold" } });
    this.heard = element("div", { className: "heard", "aria-live": "polite" }); // what is new of the state, not every step
    this.fault = element("div", { className: "fault", style: { whiteSpace: "pre-wrap", overflowWrap: "anywhere" } });
    this.bar = element("progress", { max: 1, value: 0, "aria-label": t("Steps") });
    this.memory = element("div", { className: "quiet" });
    this.samples = element("div");
    this.said = element("div", { className: "quiet", role: "status", "aria-live": "polite" });
    this.buttons = Object.entries(ASKED).map(([kind, [label]]) =>
      element("button", { onClick: () => this.request(kind) }, t(label)),
    );
    this.asking = element("div", { className: "row" }, ...this.buttons);
    this.chosen = element("select", { "aria-label": t("Checkpoint") });
    this.ending = element(
      "div",
      { className: "row" },
      this.chosen,
      element("button", { onClick: () => this.use(), title: t("Puts its name into the Load LoRA nodes") }, t("Use this checkpoint")),
      element("button", { onClick: () => this.copy() }, t("Copy its name")),
    );
    this.lines = element("pre", { tabIndex: 0 });
    this.log = element("details", { onToggle: () => this.readLog() }, element("summary", {}, t("Log")), this.lines);
    this.element = element(
      "div",
      { className: "impasto impasto-trainer", role: "group", "aria-label": t("Training") },
      ...[this.state, this.heard, this.fault, this.bar, this.asking, this.said, this.curve.canvas, this.curve.readout],
      ...[this.samples, this.ending, this.memory, this.log],
    );
    this.element.addEventListener("wheel", (event) => event.stopPropagation());
    // Else Delete, with the focus in here, would delete the node.
    this.element.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
    this.element.panel = this; // for whoever looks for it by the page
    this.widget = node.addDOMWidget(WIDGET, WIDGET, this.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
    });
    this.widget.serialize = false;
    // Only higher: a wider node would lie over its neighbour.
    node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
    // The panel has every sample; ComfyUI would show a result's a second time, in Nodes 2.0 and in the classic renderer.
    node.hideOutputImages = true;
    Object.defineProperty(node, "imgs", { get: () => undefined, set: () => {}, configurable: true });
  }

  /** Show this run; the node may start a trainer soon, or has ended and gave it back as it was. */
  follow(run, { starting = false, returned } = {}) {
    if (run !== this.run) this.losses.forget();
    this.returned = returned ?? (this.returned && run === this.run && !starting);
    this.run = run;
    if (starting) Object.assign(this, { until: Date.now() + PATIENCE, since: Date.now() });
    this.look();
  }

  /** Read the run, show it, and go on as long as somebody is at work on it. */
  async look() {
    clearTimeout(this.timer);
    if (this.looking) return;
    this.looking = true;
    let summary = null;
    const run = this.run;
    try {
      if (!document.hidden) {
        const path = `/runs/${encodeURIComponent(run)}`;
        // The last step is asked for again: its held-out loss comes later than its loss.
        const after = Math.max(-1, this.losses.last - 1);
        const [told, metrics] = await Promise.all([ask(path), ask(`${path}/metrics?after=${after}`)]);
        if (run === this.run) this.update((summary = told), metrics.records);
      }
      if (this.lost) this.say("");
      this.lost = false;
    } catch (error) {
      this.say(error.message, true);
      this.lost = true;
      if (error.message.includes("There is no training run")) this.until = 0;
      else summary = this.last; // the server may be starting again
    }
    this.looking = false;
    if (document.hidden || summary?.active || Date.now() < this.until || run !== this.run) {
      this.timer = setTimeout(() => this.node.graph && this.look(), EVERY);
    }
  }

  /** @param {Object[]} records of steps that are new */
  update(summary, records) {
    // A run that goes on from a checkpoint trains the steps behind it again.
    if (summary.active && summary.step && summary.step < this.losses.last - 1) this.losses.forget();
    else this.losses.add(records);
    const changed = this.last?.state !== summary.state || !this.last?.active !== !summary.active;
    this.last = summary;
    const waited = this.since ? (Date.now() - this.since) / 1000 : 0;
    setText(this.state, stateOf(summary, waited, this.returned));
    const tenth = Math.floor((10 * summary.step) / (summary.total || 1));
    const news = [summary.state, Boolean(summary.active), summary.active?.stopping, this.returned, tenth].join();
    if (news !== this.news) setText(this.heard, this.state.textContent);
    this.news = news;
    this.element.dataset.state = summary.active ? "active" : summary.state;
    const told = this.node.widgets?.find((widget) => widget.name === "impasto_result")?.element.textContent ?? "";
    const fault = summary.state === "failed" && !summary.active ? summary.error : "";
    setText(this.fault, fault && told.includes(fault.slice(0, 200)) ? "" : [fault, summary.warning].filter(Boolean).join("\n"));
    Object.assign(this.bar, { max: summary.total || 1, value: summary.active && summary.state !== "training" ? 0 : summary.step });
    for (const button of this.buttons) button.disabled = summary.state !== "training" || Boolean(summary.active?.stopping);
    this.asking.hidden = !summary.active;
    const made = `${summary.checkpoints} ${summary.samples?.map(({ step }) => step)}`;
    if (changed || made !== this.made) this.say(""); // what was asked for is there
    this.made = made;
    this.curve.show(summary.active ? summary.total : summary.step, summary.checkpoints ?? []);
    const size = (bytes) => ({ n: (bytes / 1e9).toFixed(1) });
    const device = summary.peak_device_memory ? `, ${t("{n} GB of the card", size(summary.peak_device_memory))}` : "";
    const memory = summary.peak_memory && t("At most {n} GB of memory", size(summary.peak_memory)) + device;
    setText(this.memory, [memory, summary.plan].filter(Boolean).join(". "));
    this.showCheckpoints(summary);
    this.showSamples(summary);
    if (this.log.open) this.readLog();
  }

  showCheckpoints({ active, checkpoints = [], state }) {
    const ended = !active && checkpoints.length > 0;
    this.ending.hidden = !ended;
    const best = this.losses.best();
    const key = `${this.run} ${checkpoints} ${best} ${state}`;
    if (!ended || this.listed === key) return;
    this.listed = key;
    const chosen = checkpoints.includes(best) ? best : checkpoints.at(-1);
    const marks = (step) => [step === best && t("best held-out"), step === checkpoints.at(-1) && t("last")];
    const named = (step) => [t("Step {step}", { step }), ...marks(step)].filter(Boolean).join(", ");
    this.chosen.replaceChildren(...checkpoints.map((step) => element("option", { value: step, selected: step === chosen }, named(step))));
  }

  showSamples({ samples = [], prompts = [] }) {
    const ready = samples.filter((sample) => sample.pictures.length);
    const key = `${this.run} ${ready.map(({ step, count }) => `${step}:${count}`)}`;
    if (key === this.drawn) return;
    this.drawn = key;
    const rows = Math.max(0, ...ready.map((sample) => sample.count));
    const of = (place) => ready.filter((sample) => place < sample.count);
    this.samples.replaceChildren(
      ...Array.from({ length: rows }, (_, place) => {
        const prompt = prompts[place] ?? t("a held-out picture's caption");
        const open = (step) => openSamples(prompt, of(place), place, step);
        const strip = of(place)
          .slice(-STRIP)
          .map((sample) => sampleButton(sample, place, 64, `${t("Step {step}", sample)}: ${prompt}`, () => open(sample.step)));
        const steps = of(place).map(({ step }) => step).slice(-STRIP).join(", ");
        const label = element("div", { className: "quiet" }, `${prompt} · ${t("steps {steps}", { steps })}`);
        return element("div", { className: "prompt" }, label, element("div", { className: "strip" }, ...strip));
      }),
    );
  }

  async readLog() {
    if (!this.log.open || !this.run) return;
    try {
      const { lines } = await ask(`/runs/${encodeURIComponent(this.run)}/log?lines=30`);
      setText(this.lines, lines.join("\n"));
    } catch (error) {
      setText(this.lines, error.message);
    }
  }

  async request(kind) {
    this.say(t(ASKED[kind][1]));
    try {
      await ask(`/runs/${encodeURIComponent(this.run)}/${kind}`, { method: "POST", body: {} });
    } catch (error) {
      this.say(error.message, true);
    }
  }

  /** The name by which ComfyUI lists the checkpoint that is chosen. */
  get loraName() {
    const step = String(this.chosen.value).padStart(6, "0");
    const name = this.run.replace(/-[0-9a-f]{8}$/, "");
    const last = this.last.state === "finished" && Number(this.chosen.value) === this.last.step;
    return `${name}/${last ? this.run : name}-${step}.safetensors`;
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.loraName);
      this.say(t("Copied: {name}", { name: this.loraName }));
    } catch {
      this.say(this.loraName); // a page that is not served securely has no clipboard
    }
  }

  /** Put the name into the Load LoRA nodes linked to this node or, where none is, into all that are beside it. */
  use() {
    const beside = this.node.graph.nodes.filter((node) => LOADERS.includes(node.comfyClass ?? node.type));
    const slot = (node) => node.inputs?.findIndex((input) => input.name === "lora_name") ?? -1;
    const linked = beside.filter((node) => slot(node) >= 0 && node.getInputNode(slot(node)) === this.node);
    const taking = linked.length ? linked : beside;
    for (const node of taking) {
      if (slot(node) >= 0 && node.inputs[slot(node)].link != null) node.disconnectInput(slot(node));
      const widget = node.widgets?.find(({ name }) => name === "lora_name");
      if (widget) widget.value = this.loraName;
      node.setDirtyCanvas?.(true, true);
    }
    const nodes = taking.map((node) => node.title).join(", ");
    if (taking.length) this.say(t("{name} is chosen in {nodes}.", { name: this.loraName, nodes }));
    else this.copy();
  }

  say(text, failed = false) {
    setText(this.said, text);
    this.said.classList.toggle("fault", failed);
  }
}

/** Without touching the page where nothing changed: what a screen reader announces is what changed. */
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
  target.hidden = !text;
}

function openSamples(prompt, samples, place, step) {
  const { body } = openDialog(prompt);
  const shown = samples.map((sample) => {
    const figure = element("figure", { style: { margin: "0" } }, sampleButton(sample, place, 512, t("Step {step}", sample), null));
    figure.append(element("figcaption", {}, t("Step {step}", sample)));
    return figure;
  });
  body.append(element("div", { style: { display: "flex", flexWrap: "wrap", gap: "12px" } }, ...shown));
  shown[samples.findIndex((sample) => sample.step === step)]?.scrollIntoView();
}

/** @returns {TrainerPanel|undefined} that of a node that trains, made when it is first needed */
function panelOf(node) {
  if (!TRAINERS.includes(node?.comfyClass)) return undefined;
  const known = node.widgets?.find((widget) => widget.name === WIDGET);
  return known ? known.element.panel : new TrainerPanel(node);
}

function known() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Keep which run a node is about; the graphs that were not trained for the longest are forgotten. */
function keep(graph, node, run) {
  const { [graph]: before, ...others } = known();
  const entries = [...Object.entries(others).slice(1 - MOST_GRAPHS), [graph, { ...before, [node]: run }]];
  localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(entries)));
}

function follow(id, run, how) {
  const panel = panelOf(nodeOf(id));
  if (!panel) return;
  keep(app.rootGraph.id, String(id), run);
  panel.follow(run, how);
}

async function restore() {
  const graph = app.rootGraph;
  try {
    for (const [id, run] of Object.entries(known()[graph.id] ?? {})) panelOf(nodeOf(id))?.follow(run);
    const trains = (nodes) => nodes?.some((node) => TRAINERS.includes(node.comfyClass) || trains(node.subgraph?.nodes));
    if (!trains(graph.nodes)) return;
    const { active } = await ask("/runs?limit=1");
    for (const { node, run, workflow } of active) {
      if (app.rootGraph === graph && workflow && workflow === graph.id) follow(node, run, { starting: true });
    }
  } catch (error) {
    console.warn("Impasto: the training of this graph could not be shown again.", error);
  }
}

/** The run of a node has ended, one way or the other. */
function ended({ detail }) {
  const id = detail.display_node ?? detail.node ?? detail.node_id;
  const run = detail.output?.impasto_run?.at(-1);
  if (run) follow(id, run, { returned: Boolean(detail.output.impasto_returned?.at(-1)) });
  const panel = nodeOf(id)?.widgets?.find((widget) => widget.name === WIDGET)?.element.panel;
  if (!panel) return;
  Object.assign(panel, { until: 0, since: 0 });
  panel.look();
}

app.registerExtension({
  name: "Impasto.Trainer",
  setup() {
    api.addEventListener("impasto.run", ({ detail }) => {
      if (!detail.workflow || detail.workflow === app.rootGraph.id) follow(detail.node, detail.run, { starting: true });
    });
    for (const kind of ["executed", "execution_error", "execution_interrupted"]) api.addEventListener(kind, ended);
  },
  afterConfigureGraph() {
    restore();
  },
});
