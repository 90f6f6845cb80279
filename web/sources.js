// WikiArt Loader's source is a text, because the Hub has no end of them. A button offers those that the server knows.
import { app } from "../../scripts/app.js";
import { addButton, ask, element, isLinked, openDialog, phrase, setWidget, t, widgetOf } from "./parts.js";

async function choose(node) {
  const { dialog, body, close } = openDialog(t("Choose a source"));
  dialog.classList.add("small");
  const said = element("p", { role: "status" }, t("Asking the server …"));
  body.append(said);
  try {
    if (isLinked(node, "source")) throw new Error(t("The source comes over a link: choose it where the link begins."));
    const { sources } = await ask("/sources");
    const chosen = widgetOf(node, "source").value.trim();
    const buttons = sources.map(({ name, about }) => {
      const onClick = () => {
        setWidget(node, "source", name);
        close();
      };
      const style = { display: "block", width: "100%", textAlign: "left", margin: "4px 0" };
      const words = [element("strong", {}, name), element("div", { className: "quiet" }, about)];
      return element("button", { "aria-pressed": String(name === chosen), style, onClick }, ...words);
    });
    said.textContent = t("Or type another dataset of the Hugging Face Hub into source: owner/name, or owner/name@revision.");
    body.prepend(element("div", { role: "group", "aria-label": t("Sources") }, ...buttons));
    (buttons[sources.findIndex(({ name }) => name === chosen)] ?? buttons[0]).focus();
  } catch (error) {
    Object.assign(said, { textContent: error.message, className: "fault" });
  }
}

app.registerExtension({
  name: "Impasto.Sources",
  nodeCreated(node) {
    if (node.comfyClass === "ImpastoWikiArtLoader") addButton(node, phrase("Choose a source …"), () => choose(node));
  },
});
