// What the page's modules share: elements, questions to the routes under /impasto/, dialogs, and one style sheet.
// Colours are the variables of ComfyUI's own themes, so that light and dark both come right.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { FRENCH } from "./words.js";

/** Marks a sentence that `t` says later. */
export const phrase = (sentence) => sentence;

const STYLE = `
.impasto { box-sizing: border-box; color: var(--input-text, #ddd); font: 12px/1.45 sans-serif; }
.impasto *, .impasto *::before { box-sizing: border-box; }
.impasto button, .impasto input, .impasto select, .impasto textarea {
  font: inherit; color: inherit; background: var(--comfy-input-bg, #222);
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 3px 8px; }
.impasto button { cursor: pointer; }
.impasto button:hover:not(:disabled) { border-color: var(--input-text, #ddd); }
.impasto button:disabled { opacity: 0.5; cursor: default; }
.impasto :focus-visible { outline: 2px solid var(--p-primary-color, #6aa9ff); outline-offset: 1px; }
.impasto [hidden] { display: none !important; }
:root { /* the themes' own are too near to a node's colour: 3.4 and 4.3 to 1 */
  --impasto-quiet: color-mix(in srgb, var(--descrip-text, #999), var(--input-text, #ddd));
  --impasto-fault: color-mix(in srgb, var(--error-text, #ff6b6b), var(--input-text, #ddd)); }
.impasto .quiet, .impasto ::placeholder { color: var(--impasto-quiet); opacity: 1; } .impasto ::placeholder { font-style: italic; }
.impasto .fault { color: var(--impasto-fault); }
.impasto .heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); } /* read aloud alone */
dialog.impasto { background: var(--comfy-menu-bg, #353535); border: 1px solid var(--border-color, #4e4e4e);
  border-radius: 8px; padding: 12px; width: min(1400px, 94vw); height: min(900px, 92vh);
  pointer-events: auto; /* which ComfyUI takes from the whole page while one of its menus is open */ }
dialog.impasto[open] { display: flex; flex-direction: column; gap: 8px; }
dialog.impasto::backdrop { background: #0008; }
dialog.impasto > header { display: flex; gap: 8px; align-items: center; }
dialog.impasto > header h2 { font-size: 15px; margin: 0; flex: 1; }
dialog.impasto.small { width: min(460px, 94vw); height: fit-content; }
dialog.impasto form { display: grid; gap: 8px; }
dialog.impasto form p { margin: 0; }
`;
const UNTOLD = phrase("The server asks for its IMPASTO_TOKEN: load the page again, or press Refresh in Impasto's sidebar, to give it.");
const TOKEN = "impasto.token"; // in the storage of this tab, which forgets it with the tab

/** The language of the panels: that of ComfyUI's page where they speak it. */
const language = () => (String(app.extensionManager?.setting?.get("Comfy.Locale")).startsWith("fr") ? "fr" : "en");

/**
 * A sentence of the panels in the page's language.
 * @param {string} sentence in English; `{name}` stands for a value
 * @param {Object<string, any>} [values]
 */
export function t(sentence, values = {}) {
  const said = (language() === "fr" && FRENCH[sentence]) || sentence;
  return said.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** So many of something. @param {number} n @param {string} one @param {string} many sentences that have `{n}` */
export function counted(n, one, many) {
  const chosen = new Intl.PluralRules(language()).select(n) === "one" ? one : many;
  return t(chosen, { n: n.toLocaleString(language()) });
}

/** Put a style sheet into the page, once for each name. */
export function addStyle(name, css) {
  const id = `impasto-style-${name}`;
  if (document.getElementById(id)) return;
  document.head.append(element("style", { id, textContent: css }));
}

/**
 * @param {string} tag
 * @param {Object<string, any>} properties of the element; those that have a dash are attributes, `on…` are listeners
 * @param {...(Node|string|null|undefined)} children
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else if (name === "style") Object.assign(made.style, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/**
 * Ask a route of the pack.
 * @param {string} path behind /impasto, for example "/runs"
 * @param {{method?: string, body?: any, signal?: AbortSignal}} [options] a body is sent as JSON
 * @returns {Promise<any>} the answer's JSON
 * @throws {Error} whose message is the server's own sentence
 */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const sent = body === undefined ? undefined : JSON.stringify(body);
  const response = await fetchRoute(`/impasto${path}`, { method, headers, body: sent, signal, cache: "no-store" }).catch((error) => {
    throw error instanceof TypeError ? new Error(t("The server does not answer: is ComfyUI still running?")) : error;
  });
  const answer = await response.json().catch(() => null);
  if (wantsToken(response)) throw new Error(t(UNTOLD));
  if (!response.ok) throw new Error(answer?.error?.message ?? t("The server answered {status}.", { status: response.status }));
  return answer;
}

let asking = null; // the question for the token that is open
let dismissed = false; // it was closed without an answer, and is not asked again unasked

/** Whether it is the pack that refused, and not a login in front of ComfyUI. */
const wantsToken = (response) => response.status === 401 && response.headers.get("WWW-Authenticate") === "Bearer";

/**
 * Fetch what a route names, from this server alone, with the token that its owner may have set; the person is asked for it once.
 * @param {string} route with its /impasto
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} of status 401 where the person gave none
 */
export async function fetchRoute(route, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const bearer = token ? { Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(token))}` } : {};
    const response = await api.fetchApi(route, { ...options, mode: "same-origin", headers: { ...options.headers, ...bearer } });
    if (!wantsToken(response)) return response;
    if (token !== sessionStorage.getItem(TOKEN)) continue; // given while this was under way
    if (dismissed) return response;
    asking ??= askForToken(Boolean(token)).finally(() => {
      asking = null;
    });
    dismissed = !(await asking);
  }
}

/** Ask for the token again where the person has closed the question. */
export function forgetDismissal() {
  dismissed = false;
}

/** @returns {Promise<boolean>} whether the person gave one */
function askForToken(wrong) {
  return new Promise((resolve) => {
    const token = element("input", { type: "password", autocomplete: "off", required: true, "aria-label": "IMPASTO_TOKEN" });
    const keep = (event) => {
      event.preventDefault();
      sessionStorage.setItem(TOKEN, token.value.trim());
      given = Boolean(token.value.trim());
      close();
    };
    let given = false;
    const { dialog, body, close } = openDialog(t("The server's token"), { onClose: () => resolve(given) });
    dialog.classList.add("small");
    const refused = wrong ? element("p", { className: "fault", role: "alert" }, `⚠ ${t("The server does not take that token.")}`) : null;
    const why = t("Whoever runs this ComfyUI has set IMPASTO_TOKEN: Impasto's runs, datasets and pictures are shown to those who know it.");
    const where = element("p", { className: "quiet" }, t("It is kept in this tab alone, until you close it."));
    body.append(element("form", { onSubmit: keep }, refused, element("p", {}, why), token, element("button", {}, t("Go on")), where));
    token.focus();
  });
}

/**
 * Show what an address of this server names, in an image. One of ours is fetched where the server wants its token, which
 * stands in no address.
 * @param {HTMLImageElement} image
 * @param {string} route "" for none
 */
export function showPicture(image, route) {
  image.dataset.route = route;
  image.onerror = null;
  if (!route) return image.removeAttribute("src");
  const fetched = async () => {
    image.onerror = null;
    const response = await fetchRoute(route, { cache: "default" }).catch(() => null);
    const picture = response?.ok ? await response.blob() : null;
    if (!picture || image.dataset.route !== route) return;
    const url = URL.createObjectURL(picture);
    for (const kind of ["load", "error"]) image.addEventListener(kind, () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  };
  const guarded = route.startsWith("/impasto/");
  if (guarded && sessionStorage.getItem(TOKEN)) return fetched();
  if (guarded) image.onerror = fetched; // an image does not tell why it failed
  image.src = api.apiURL(route);
}

/** An image of what an address of this server names. */
export function picture(route, properties) {
  const image = element("img", properties);
  showPicture(image, route);
  return image;
}

/**
 * A modal dialog: Escape and the button close it, the keyboard stays in it, and ComfyUI's canvas hears none of its keys.
 * @param {string} title
 * @param {{onClose?: () => void}} [options]
 * @returns {{dialog: HTMLDialogElement, header: HTMLElement, body: HTMLElement, close: () => void}}
 */
export function openDialog(title, { onClose } = {}) {
  const body = element("div", { style: { flex: "1", minHeight: "0", overflow: "auto" } });
  const heading = element("h2", {}, title);
  const close = () => dialog.close();
  const header = element("header", {}, heading, element("button", { onClick: close }, t("Close")));
  const dialog = element("dialog", { className: "impasto", "aria-label": title }, header, body);
  for (const kind of ["keydown", "keyup", "keypress", "copy", "cut", "paste", "wheel", "pointerdown"]) {
    dialog.addEventListener(kind, (event) => event.stopPropagation());
  }
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, header, body, close };
}

/**
 * The node that an execution id names: "4", or "2:4" for node 4 in the subgraph that node 2 stands for.
 * @param {string|number|undefined} executionId
 * @returns {any} undefined for one that is not ours
 */
export function nodeOf(executionId) {
  let graph = app.rootGraph;
  let node;
  for (const id of String(executionId ?? "").split(":")) {
    node = graph?.getNodeById(id);
    graph = node?.subgraph;
  }
  return node?.comfyClass?.startsWith("Impasto") ? node : undefined;
}

/** A node's widget by the name of its input. */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/** Whether an input gets its value from a link, or from the subgraph that the node lies in. */
export function isLinked(node, name) {
  return Boolean(node.inputs?.some((input) => input.widget?.name === name && input.link != null));
}

/** Set a widget as if a person had typed it; the graph then counts as changed. */
export function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  node.setDirtyCanvas(true, true);
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}

/** A button on a node, which is no input of it and in no saved graph; @param {string} text in English, and the widget's name */
export function addButton(node, text, onClick) {
  const button = node.addWidget("button", text, null, onClick, { serialize: false });
  button.serialize = false;
  button.label = t(text);
  const needed = node.computeSize();
  node.setSize([Math.max(node.size[0], needed[0]), Math.max(node.size[1], needed[1])]);
  return button;
}

addStyle("parts", STYLE);
