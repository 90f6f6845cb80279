// Captions with their pictures, in a dialog of the Caption Editor node. What is written goes into the node's widget
// `overrides`, so that the graph carries it; it takes effect when the graph is queued. The captions come with the node's
// last result, also after the page was loaded again (impasto.js asks the history for it).
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addButton, addStyle, ask, element, isLinked, nodeOf, openDialog, phrase, picture, setWidget, showPicture, t, widgetOf } from "./parts.js";
import { oneLine, Overrides } from "./overrides.js";
import { PictureList } from "./picture_list.js";

const NODE = "ImpastoCaptionEditor";
const ROW = 76; // pixels
const SIDE = 1024; // pixels of the large picture
const PAUSE = 250; // milliseconds without a key before a caption is counted
const AT_ONCE = 100; // captions counted in one call
const MOST_UNDONE = 200;
const REFUSED = ["empty", "refusal"]; // kinds of doubt that mean: there is no caption yet
const SHOWN = {
  [phrase("All")]: () => true,
  [phrase("Flagged")]: (state) => Object.keys(state.flags).length > 0,
  [phrase("Refused or empty")]: (state) => REFUSED.some((kind) => kind in state.flags),
  [phrase("Edited")]: (state) => state.edited,
  [phrase("Locked")]: (state) => state.locked,
};

addStyle(
  "caption-editor",
  `
.impasto .editor { display: grid; grid-template-columns: minmax(240px, 380px) 1fr; gap: 12px; height: 100%; }
.impasto .editor > div { display: flex; flex-direction: column; gap: 8px; min-height: 0; min-width: 0; }
.impasto .editor .line { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; }
.impasto .editor .line input[type=text], .impasto .editor .line input[type=search] { flex: 1; min-width: 8em; }
.impasto .editor .large { flex: 1; min-height: 120px; width: 100%; object-fit: contain; background: #8882; }
.impasto .editor textarea { width: 100%; height: 8em; resize: vertical; font-size: 14px; }
.impasto .editor p { margin: 0; }
`,
);

/** What the page knows of a node's last result. @type {WeakMap<object, {rows: any[], dataset: string}>} */
const results = new WeakMap();

class CaptionEditor {
  constructor(node, { rows, dataset }) {
    Object.assign(this, { node, rows, dataset, checked: new Map(), undone: [], row: null, asked: 0 });
    this.linked = isLinked(node, "overrides");
    this.read();
    this.build();
    this.filter();
    this.list.choose(0);
    this.list.element.focus();
    this.check(this.rows.map((row) => this.state(row)).filter((state) => !state.known).map((state) => state.text));
  }

  read() {
    const text = String(widgetOf(this.node, "overrides")?.value ?? "");
    this.overrides = new Overrides(text, this.rows.map((row) => row.sha256));
  }

  /** How a picture stands: as the node left it, and what was written since. */
  state(row) {
    let { text, edited, locked } = row;
    const line = this.overrides.get(row.sha256);
    const given = line === null && (edited || locked);
    if (given) edited = locked = false;
    else if (line && (line.locked || !row.locked)) {
      text = line.text || text;
      edited = true;
      locked = line.locked;
    }
    const same = text === row.text;
    const counted = same ? row : this.checked.get(text);
    const pending = given || !same || edited !== row.edited || locked !== row.locked;
    return { text, edited, locked, given, pending, known: Boolean(counted), flags: counted?.flags ?? {}, tokens: counted?.tokens };
  }

  build() {
    this.list = new PictureList(t("Pictures"), ROW, (row) => this.drawRow(row), (row) => this.open(row));
    this.which = element("select", { "aria-label": t("Which pictures are shown"), onChange: () => this.filter() });
    this.search = element("input", {
      type: "search", placeholder: t("Search captions"), "aria-label": t("Search captions"), onInput: () => this.filter(),
    });
    this.large = element("img", { className: "large", alt: "" });
    this.caption = element("textarea", {
      "aria-label": t("Caption"), readOnly: this.linked, spellcheck: true, onInput: () => this.typed(),
      onKeydown: (event) => this.key(event),
    });
    this.count = element("p", { role: "status" });
    this.doubts = element("p", {});
    this.lock = element("input", { type: "checkbox", onChange: () => this.save() });
    this.said = element("p", { className: "quiet", role: "status", "aria-live": "polite" });
    const button = (text, title, onClick) => element("button", { type: "button", title, disabled: this.linked, onClick }, text);
    this.back = button(t("Give back"), t("Forget my words and lock: the captioner's caption comes back"), () => this.giveBack());
    this.undoing = button(t("Undo"), t("Take back the last change to the captions (Ctrl+Z outside of a text)"), () => this.undo());
    const actions = element(
      "div",
      { className: "line" },
      button(t("Save"), t("Write this caption into the node"), () => this.save()),
      button(t("Save and next"), t("Ctrl+Enter"), () => this.next()),
      element("label", { title: t("A locked caption is changed by you alone, here") }, this.lock, ` ${t("Locked")}`),
      this.back,
      this.undoing,
    );
    const left = element("div", {}, element("div", { className: "line" }, this.which, this.search), this.list.element);
    const right = element("div", {}, this.large, this.caption, this.count, this.doubts, actions, this.replacing(button), this.said);
    const { dialog, body } = openDialog(t("Captions of {name}", { name: this.dataset || t("this dataset") }), { onClose: () => this.save() });
    body.append(element("div", { className: "editor" }, left, right));
    dialog.addEventListener("keydown", (event) => {
      if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("textarea, input")) return;
      event.preventDefault();
      this.undo();
    });
    if (this.linked) this.say(t("overrides gets its text from a link or from the subgraph: it can be read here, and edited there."));
  }

  replacing(button) {
    const preview = () => this.previewReplacing();
    const box = (placeholder, label) => element("input", { type: "text", placeholder, "aria-label": label, onInput: preview });
    this.find = box(t("Find"), t("Find in the captions shown"));
    this.put = box(t("Replace with"), t("Replace with"));
    this.exactly = element("input", { type: "checkbox", onChange: preview });
    this.replace = button(t("Replace"), t("Replace in every caption that is shown on the left"), () => this.replaceAll());
    this.replace.disabled = true;
    this.found = element("span", { className: "quiet", role: "status" });
    const matching = element("label", {}, this.exactly, ` ${t("match case")}`);
    return element("div", { className: "line" }, this.find, this.put, matching, this.replace, this.found);
  }

  /** Show in the list what the choice and the search ask for; the picture that is open stays open. */
  filter() {
    const states = new Map(this.rows.map((row) => [row, this.state(row)]));
    const all = [...states.values()];
    const chosen = this.which.value || "All";
    this.which.replaceChildren(
      ...Object.entries(SHOWN).map(([name, shown]) =>
        element("option", { value: name, selected: name === chosen }, `${t(name)} (${all.filter(shown).length})`)),
    );
    const sought = this.search.value.trim().toLowerCase();
    const says = (row, { text }) => text.toLowerCase().includes(sought) || row.sha256.startsWith(sought);
    const items = this.rows.filter((row) => SHOWN[chosen](states.get(row)) && (!sought || says(row, states.get(row))));
    this.list.show(items, items.indexOf(this.row));
    this.previewReplacing();
  }

  drawRow(row) {
    const { text, edited, locked, pending, flags } = this.state(row);
    const marks = [pending && t("not queued yet"), locked ? t("locked") : edited && t("edited"), ...Object.keys(flags).map((kind) => t(kind))];
    const words = element("div", { className: "words" }, element("p", {}, text || t("(no caption)")));
    const said = marks.filter(Boolean).join(" · ");
    if (said) words.append(element("p", { className: Object.keys(flags).length ? "fault" : "quiet" }, said));
    const small = `/view?${new URLSearchParams({ type: "temp", subfolder: "impasto/thumbnails", filename: row.thumbnail })}`;
    return [picture(row.thumbnail ? small : this.route(row), { alt: "", decoding: "async" }), words];
  }

  route(row, side = 192) {
    return `/impasto/datasets/${encodeURIComponent(this.dataset)}/thumbnails/${row.sha256}?side=${side}`;
  }

  open(row) {
    if (this.row && this.row !== row) this.save();
    this.row = row;
    this.list.mark(this.list.items.indexOf(row));
    const { text, locked } = this.state(row);
    showPicture(this.large, this.route(row, SIDE));
    this.caption.value = text;
    this.lock.checked = locked;
    this.lock.disabled = row.locked || this.linked;
    this.lock.parentElement.title = row.locked ? t("Give back takes the lock away") : t("Keeps this caption from every other override");
    this.tell();
  }

  /** The tokens of what stands in the box, and what is doubtful about it. */
  tell() {
    const text = oneLine(this.caption.value);
    const known = text === this.row.text ? this.row : this.checked.get(text);
    const [clip, t5] = this.limits ?? [77, 512];
    const about = this.estimated && known !== this.row ? "≈ " : "";
    const tokens = known?.tokens.map((count) => about + count);
    this.count.textContent = known
      ? t("CLIP-L {a} of {clip} tokens, T5 {b} of {t5}; trigger word, prefix and suffix included", { a: tokens[0], b: tokens[1], clip, t5 })
      : t("counting …");
    const doubts = Object.entries(known?.flags ?? {});
    this.doubts.className = doubts.length ? "fault" : "quiet";
    this.doubts.textContent = doubts.length
      ? `⚠ ${doubts.map(([kind, words]) => `${t(kind)}: ${words.join(", ")}`).join("; ")}`
      : known ? t("nothing doubtful") : "";
    this.back.disabled = this.linked || !this.state(this.row).edited;
    this.undoing.disabled = this.linked || !this.undone.length;
  }

  typed() {
    this.tell();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.check([oneLine(this.caption.value)]), PAUSE);
  }

  /** Have the server count texts and look them over; what is known already is not asked again. */
  async check(texts) {
    const unknown = [...new Set(texts)].filter((text) => !this.checked.has(text));
    const said = (name) => String(widgetOf(this.node, name)?.value ?? "");
    const words = { trigger_word: said("trigger_word"), prefix: said("prefix"), suffix: said("suffix") };
    try {
      for (let from = 0; from < unknown.length; from += AT_ONCE) {
        const some = unknown.slice(from, from + AT_ONCE);
        const { captions, limits, estimated } = await ask("/captions/check", { method: "POST", body: { texts: some, ...words } });
        Object.assign(this, { limits, estimated });
        some.forEach((text, place) => this.checked.set(text, captions[place]));
      }
    } catch (error) {
      this.say(t("The captions could not be counted: {why}", { why: error.message }), true);
    }
    if (unknown.length) this.filter();
    if (this.row) this.tell();
  }

  /** Write the box's caption and lock, if they are others than before. */
  save() {
    if (!this.row || this.linked) return;
    const before = this.state(this.row);
    const text = oneLine(this.caption.value);
    const locked = this.lock.checked;
    if (text === before.text && locked === before.locked) return;
    if (!text) {
      this.say(t("An empty caption is not written; Give back brings the captioner's own."), true);
      this.caption.value = before.text;
      return;
    }
    const untouched = text === this.row.text && locked === this.row.locked && !this.row.edited;
    this.change([[this.row, untouched ? undefined : { text, locked }]], t("Caption saved in the node"));
  }

  giveBack() {
    const { edited, locked } = this.row;
    this.change([[this.row, edited || locked ? null : undefined]], t("Given back to the captioner"));
    this.open(this.row);
  }

  /** @param {[any, any][]} edits rows with their edit, as `Overrides.set` takes it */
  change(edits, said) {
    this.undone.push(this.overrides.toString());
    if (this.undone.length > MOST_UNDONE) this.undone.shift();
    for (const [row, edit] of edits) this.overrides.set(row.sha256, edit);
    setWidget(this.node, "overrides", this.overrides.toString());
    this.say(`${said}. ${t("Queue the graph to write it.")}`);
    this.filter();
    this.check(edits.map(([row]) => this.state(row)).filter((state) => !state.known).map((state) => state.text));
  }

  undo() {
    if (!this.undone.length || this.linked) return;
    setWidget(this.node, "overrides", this.undone.pop());
    this.read();
    this.filter();
    this.open(this.row);
    this.say(t("The last change was taken back."));
  }

  next() {
    const here = this.list.items.indexOf(this.row);
    this.save();
    this.list.choose(this.list.items[here] === this.row ? here + 1 : here); // saved, it may not be among the shown any more
    this.caption.focus();
  }

  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.next();
    else if (event.altKey && event.key === "ArrowDown") this.list.choose(this.list.chosen + 1);
    else if (event.altKey && event.key === "ArrowUp") this.list.choose(this.list.chosen - 1);
    else return;
    event.preventDefault();
  }

  /** Captions shown that hold what is sought: [row, caption after it, number of places]; and how many locked ones are left. */
  matches() {
    if (!this.find.value) return { found: [], locked: 0 };
    const escaped = this.find.value.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const expression = new RegExp(escaped, this.exactly.checked ? "gu" : "giu");
    const hits = this.list.items
      .map((row) => ({ row, state: this.state(row), places: (this.state(row).text.match(expression) ?? []).length }))
      .filter(({ places }) => places);
    const found = hits.filter(({ state }) => !state.locked)
      .map(({ row, state, places }) => [row, oneLine(state.text.replace(expression, () => this.put.value)), places]);
    return { found: found.filter(([, text]) => text), locked: hits.filter(({ state }) => state.locked).length };
  }

  previewReplacing() {
    const { found, locked } = this.matches();
    const places = found.reduce((sum, [, , count]) => sum + count, 0);
    this.replace.disabled = this.linked || !found.length;
    this.replace.textContent = found.length ? t("Replace in {n}", { n: found.length }) : t("Replace");
    const left = locked ? `; ${t("{n} locked are left as they are", { n: locked })}` : "";
    const where = t("{places} places in {n} of the captions shown", { places, n: found.length });
    this.found.textContent = this.find.value ? where + left : "";
  }

  replaceAll() {
    this.save();
    const { found } = this.matches();
    const edits = found.map(([row, text]) => [row, { text, locked: false }]);
    if (!edits.length) return;
    this.change(edits, t("Replaced in {n} captions", { n: edits.length }));
    this.open(this.row);
  }

  say(text, fault = false) {
    this.said.className = fault ? "fault" : "quiet";
    this.said.textContent = text;
  }
}

function openEditor(node) {
  const result = results.get(node);
  if (result?.rows.length) return new CaptionEditor(node, result);
  const { body } = openDialog(t("Captions"));
  const why = t("There is nothing to show yet. Queue the graph once: the captions and pictures come with this node's result.");
  body.append(element("p", {}, why));
}

app.registerExtension({
  name: "Impasto.CaptionEditor",
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const node = nodeOf(detail.display_node ?? detail.node);
      const rows = detail.output?.impasto_captions;
      if (node && rows) results.set(node, { rows, dataset: detail.output.impasto_dataset?.[0] ?? "" });
    });
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addButton(node, phrase("Edit captions …"), () => openEditor(node));
  },
});
