// The colours of the pack's own sockets and their links, after pigments; what ComfyUI's types have is left to it.
// Each is told apart from its neighbours and from the dark node by its lightness too, and its name stands beside it.
import { app } from "../../scripts/app.js";
import { addStyle } from "./parts.js";

/** @type {Object<string, string>} */
export const COLOURS = {
  IMPASTO_DATASET: "#9bbf3b", // sap green
  IMPASTO_DATASET_CONFIG: "#e3d08a", // Naples yellow
  IMPASTO_FEATURES: "#35b58a", // viridian
  IMPASTO_CAPTIONER: "#d98cb3", // madder rose
  IMPASTO_PROMPTS: "#7d95ff", // ultramarine
  IMPASTO_TRAINING: "#d08b5b", // raw sienna
  IMPASTO_RUN: "#ff6f4d", // vermilion
  IMPASTO_PICTURE_GRID: "#3fb8cf", // turquoise
};

/** Colours by type of the classic renderer: a palette that has none for a type writes "" there, and means the default. */
function keep(colours) {
  for (const [type, ours] of Object.entries(COLOURS)) {
    let chosen = "";
    Object.defineProperty(colours, type, {
      get: () => chosen || ours,
      set: (given) => (chosen = given),
      enumerable: true,
      configurable: true,
    });
  }
}

app.registerExtension({
  name: "Impasto.Colours",
  setup() {
    keep(app.canvas.default_connection_color_byType);
    keep(app.canvas.constructor.link_type_colors);
    // Nodes 2.0 asks for these. A palette that has its own sets them on the element itself, which goes before a sheet.
    const rules = Object.entries(COLOURS).map(([type, colour]) => `--color-datatype-${type}: ${colour};`);
    addStyle("colours", `:root { ${rules.join(" ")} }`);
    app.canvas.setDirty(true, true);
  },
});
