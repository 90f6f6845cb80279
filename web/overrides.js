// The text of Caption Editor's widget `overrides`, one picture a line, read as `captioners/editing.py` reads it.
const DIGITS = 12; // of a picture's hash, in a line of ours
const SHORTEST = 6; // that name a picture

/** A caption on one line, as a line of the widget holds it: a "!" before it would lock it. */
export function oneLine(text) {
  return text.replace(/\s+/g, " ").trim().replace(/^(!\s*)+/, "");
}

export class Overrides {
  /**
   * @param {string} text of the widget; lines that name no picture are kept as they are
   * @param {string[]} hashes of the dataset's pictures
   */
  constructor(text, hashes) {
    const byBeginning = new Map();
    for (const hash of hashes) {
      const beginning = hash.slice(0, SHORTEST);
      byBeginning.set(beginning, [...(byBeginning.get(beginning) ?? []), hash]);
    }
    this.lines = text.split("\n").filter((line) => line.trim()).map((line) => {
      const colon = line.indexOf(":");
      const digits = line.slice(0, Math.max(0, colon)).trim().toLowerCase();
      const named = (byBeginning.get(digits.slice(0, SHORTEST)) ?? []).filter((hash) => hash.startsWith(digits));
      return { hash: colon > 0 && named.length === 1 ? named[0] : null, line };
    });
    this.at = new Map();
    this.lines.forEach(({ hash }, place) => hash && this.at.set(hash, place));
  }

  /**
   * What the line of a picture says: undefined where there is none, null where it gives the picture back to the captioner.
   * @returns {{text: string, locked: boolean}|null|undefined} an empty text locks the caption that is there
   */
  get(hash) {
    if (!this.at.has(hash)) return undefined;
    const { line } = this.lines[this.at.get(hash)];
    const said = line.slice(line.indexOf(":") + 1).replace(/\s+/g, " ").trim();
    const locked = said.startsWith("!");
    const text = (locked ? said.slice(1) : said).trim();
    return text || locked ? { text, locked } : null;
  }

  /** @param {{text: string, locked: boolean}|null|undefined} edit as `get` gives it; undefined takes the line out */
  set(hash, edit) {
    const place = this.at.get(hash);
    if (edit === undefined) {
      if (place !== undefined) this.lines[place] = { hash: null, line: "" };
      this.at.delete(hash);
      return;
    }
    const line = `${hash.slice(0, DIGITS)}: ${edit ? `${edit.locked ? "!" : ""}${edit.text}` : ""}`.trimEnd();
    if (place === undefined) this.at.set(hash, this.lines.push({ hash, line }) - 1);
    else this.lines[place] = { hash, line };
  }

  toString() {
    return this.lines.map(({ line }) => line).filter(Boolean).join("\n");
  }
}
