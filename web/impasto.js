// What an Impasto node did stays on it: the sentence of its result, or the whole text of its error. ComfyUI's page shows the
// pictures of a result by itself, and what a node says while it runs. It keeps neither text once the page is loaded again;
// the server's history has both, and is asked for what belongs to the graph that was opened.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { nodeOf } from "./parts.js";

const NO_ID = "00000000-0000-0000-0000-000000000000"; // of a graph that never was in a file
const RESULT = "impasto_result"; // our widget's name
const LIVE_TEXT = "$$node-text-preview"; // of ComfyUI's widget for what a node says while it runs
const LINE = 16; // pixels
const PADDING = 28; // pixels: above and below the text, and ComfyUI's margin around an element
const MOST_LINES = 8; // what is longer can be scrolled
const HISTORY = 32; // prompts looked at for the last results of a graph
const EVERY = 250; // milliseconds between two looks at whether the server refused a graph
const LONGEST_LOOK = 120_000; // milliseconds that it may take to answer
const refusals = { timer: 0, until: 0, nodes: new Set() }; // the nodes that show one; until when one is looked for

/** A text of ours on a node, made when it is first needed. */
function resultWidget(node) {
  const known = node.widgets?.find((widget) => widget.name === RESULT);
  if (known) return known;
  const element = document.createElement("div");
  element.setAttribute("role", "status");
  element.setAttribute("aria-live", "polite");
  element.tabIndex = 0;
  Object.assign(element.style, {
    boxSizing: "border-box",
    width: "100%",
    padding: "4px 8px",
    overflow: "auto",
    whiteSpace: "pre-wrap",
    overflowWrap: "anywhere",
    userSelect: "text",
    font: `12px/${LINE}px sans-serif`,
  });
  element.addEventListener("wheel", (event) => {
    if (element.scrollHeight > element.clientHeight) event.stopPropagation();
  });
  const widget = node.addDOMWidget(RESULT, RESULT, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => LINE * Math.min(MOST_LINES, linesOf(element.textContent, node.size[0])) + PADDING,
  });
  widget.serialize = false;
  return widget;
}

/** About how many lines a text takes on a node of this width. */
function linesOf(text, width) {
  const perLine = Math.max(10, (width - 50) / 6.4);
  return text.split("\n").reduce((lines, line) => lines + Math.max(1, Math.ceil(line.length / perLine)), 0);
}

/**
 * @param {string} text
 * @param {boolean} failed whether it is an error
 */
function show(node, text, failed = false) {
  if (!text && !node.widgets?.some((widget) => widget.name === RESULT)) return;
  const { element } = resultWidget(node);
  element.textContent = text;
  element.dataset.state = failed ? "failed" : "";
  element.style.color = failed ? "var(--impasto-fault)" : "var(--input-text, #ddd)";
  element.style.borderLeft = failed ? "3px solid var(--error-text, #ff6b6b)" : "none";
  const needed = node.computeSize()[1];
  if (needed > node.size[1]) node.setSize([node.size[0], needed]);
  node.setDirtyCanvas(true, true);
}

/** What a node said while it ran has no meaning any more once it has ended. */
function clearLiveText(node) {
  const live = node.widgets?.find((widget) => widget.name === LIVE_TEXT);
  if (live) node.removeWidget(live);
}

function ended({ detail }) {
  const node = nodeOf(detail.display_node ?? detail.node);
  if (!node) return;
  clearLiveText(node);
  show(node, detail.output?.impasto?.filter(Boolean).join("\n\n") ?? "");
}

function begun({ detail }) {
  const node = nodeOf(detail);
  if (node) show(node, "");
}

function failed({ detail }) {
  const node = nodeOf(detail.node_id);
  if (!node) return;
  clearLiveText(node);
  show(node, detail.exception_message?.trim() ?? "", true);
}

/** What the server refused about a node before anything ran: a text of ours, which begins with its widget, comes once a widget. */
function refusalOf({ errors }) {
  const said = ({ type, message, details = "", extra_info: about }) =>
    type === "custom_validation_failed" ? details.replace(`${about?.input_name} - `, "") : `${message}: ${details}`;
  return [...new Set(errors.map(said))].join("\n");
}

/**
 * No event tells that the server refused a graph: what ComfyUI's page has of it is looked for while a graph is queued.
 * @param {Event} [queued] it is, so that this look is the last
 */
function lookForRefusals(queued) {
  clearTimeout(refusals.timer);
  for (const [id, told] of Object.entries(app.lastNodeErrors ?? {})) {
    const node = nodeOf(id);
    if (!node || !told.errors?.length) continue;
    show(node, refusalOf(told), true);
    refusals.nodes.add(node);
  }
  if (!queued && !refusals.nodes.size && Date.now() < refusals.until) refusals.timer = setTimeout(lookForRefusals, EVERY);
}

/** A graph goes to the server anew: what it refused the last time may be mended. */
function queueing() {
  for (const node of refusals.nodes) show(node, "");
  Object.assign(refusals, { nodes: new Set(), until: Date.now() + LONGEST_LOOK });
  setTimeout(lookForRefusals, EVERY); // by when the page has forgotten the last ones
}

/**
 * Show again what the last prompts of this very graph left on its nodes.
 * @param {(id: string) => boolean} wanted by execution id
 */
async function restore(wanted) {
  const { nodes, id: opened } = app.rootGraph ?? {};
  if (!nodes?.length || opened === NO_ID) return;
  const response = await api.fetchApi(`/history?max_items=${HISTORY}`);
  const prompts = response.ok ? Object.values(await response.json()) : [];
  if (app.rootGraph.id !== opened) return; // another graph was opened meanwhile
  for (const { prompt, outputs, meta, status } of prompts) {
    if (prompt?.[3]?.extra_pnginfo?.workflow?.id !== opened) continue;
    for (const [id, output] of Object.entries(outputs ?? {})) {
      const shownBy = meta?.[id]?.display_node ?? id;
      // As ComfyUI's own page does it when a node ends: the pictures come back by the same way.
      if (output.impasto && wanted(String(shownBy)) && nodeOf(shownBy)) {
        api.dispatchCustomEvent("executed", { node: id, display_node: shownBy, output, prompt_id: prompt[1] });
      }
    }
    for (const [kind, detail] of status?.messages ?? []) {
      if (kind === "execution_error" && wanted(String(detail.node_id))) failed({ detail });
    }
  }
}

/** ComfyUI says nothing of what a node that it took from its cache left the last time. */
function cached({ detail }) {
  const silent = new Set();
  for (const id of detail.nodes ?? []) {
    const node = nodeOf(id);
    if (node && !saysSomething(node)) silent.add(String(id));
  }
  if (silent.size) showAgain((id) => silent.has(id));
}

function saysSomething(node) {
  return node.widgets?.some((widget) => widget.name === RESULT && widget.element.textContent);
}

/** Without holding up what waits for the page. */
async function showAgain(wanted = () => true) {
  try {
    await restore(wanted);
  } catch (error) {
    console.warn("Impasto: the last results of this graph could not be shown again.", error);
  }
}

app.registerExtension({
  name: "Impasto.Results",
  setup() {
    api.addEventListener("executing", begun);
    api.addEventListener("executed", ended);
    api.addEventListener("execution_cached", cached);
    api.addEventListener("execution_error", failed);
    api.addEventListener("promptQueueing", queueing);
    api.addEventListener("promptQueued", lookForRefusals);
  },
  afterConfigureGraph() {
    showAgain();
  },
});
