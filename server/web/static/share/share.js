/** What can be taken away: the link, the request as code, the run as a file, the animation. */

import { byId } from "../view/element.js";
import { archiveOf } from "./archive.js";
import { copy, save } from "./files.js";
import { fragmentOf } from "./permalink.js";
import { curlOf, jsonOf, pythonOf } from "./snippets.js";
import { svgOf } from "./svg.js";

const LANGUAGES = { curl: curlOf, python: pythonOf, json: jsonOf };
const SAID_MS = 2000;

export class Share {
  /** @param {{client: import("../client.js").Client, shareable: () => ?object[], runs: object[], endpoints: object[], stage: import("../view/stage.js").Stage}} page */
  constructor(page) {
    this.page = page;
    this.dialog = byId("code-dialog");
    byId("link").addEventListener("click", ({ target }) => this._link(target));
    byId("code").addEventListener("click", () => this._open());
    byId("language").addEventListener("change", () => this._write());
    byId("code-close").addEventListener("click", () => this.dialog.close());
    byId("code-copy").addEventListener("click", async () => {
      const copied = await copy(byId("code-text").value);
      if (!copied) byId("code-text").select();
      byId("code-said").textContent = copied ? "Copied." : "Selected: copy it with Ctrl+C.";
    });
    byId("save-run").addEventListener("click", () => {
      save(`${this._name}.json`, "application/json", archiveOf(this.page.runs));
    });
    byId("save-animation").addEventListener("click", () => {
      this.page.runs.forEach((run, index) => {
        save(`${this._name}${index > 0 ? "-b" : ""}.svg`, "image/svg+xml", svgOf(run, { colouring: this.page.stage.how.colouring }));
      });
    });
  }

  /** Offer what there is. @param {import("../run/run.js").Run[]} runs */
  draw(runs) {
    const told = runs.length > 0 && runs.every(({ recording, vocabulary, isOver }) => recording !== null && vocabulary !== null && isOver);
    byId("save-run").disabled = !told;
    byId("save-animation").disabled = !told;
  }

  async _link(button) {
    const settings = this.page.shareable();
    if (settings === null) return;
    const url = new URL(location.href);
    url.hash = fragmentOf(settings, this.page.endpoints);
    history.replaceState(null, "", url);
    const said = (await copy(url.href)) ? "Copied" : "In the address bar";
    button.textContent = said;
    setTimeout(() => (button.textContent = "Copy link"), SAID_MS);
  }

  _open() {
    this._settings = this.page.shareable();
    if (this._settings === null) return;
    byId("code-said").textContent = "";
    this._write();
    this.dialog.showModal();
  }

  _write() {
    const language = byId("language").querySelector("input:checked").value;
    const where = { baseUrl: this.page.client.baseUrl, hasKey: this.page.client.apiKey !== null };
    byId("code-text").value = this._settings.map((settings) => LANGUAGES[language](settings, where)).join("\n\n");
  }

  get _name() {
    const { model, seed } = this.page.runs[0].recording.start;
    return `${model}-${seed}`.replaceAll(/[^\w.-]+/g, "_");
  }
}
