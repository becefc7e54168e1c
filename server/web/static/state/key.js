/** The API key: asked for when the server wants one, kept for the session, or longer where that is wished. */

import { byId } from "../view/element.js";

const NAME = "token-diffusion-key";

export class Key {
  /** @param {import("../client.js").Client} client @param {() => void} onUse a key was given */
  constructor(client, onUse) {
    this.client = client;
    this._onUse = onUse;
    this.dialog = byId("key-dialog");
    this.input = byId("key-input");
    this.remember = byId("key-remember");
    this.button = byId("key-button");
    this.forgets = byId("key-forget");
    client.apiKey = stored();
    this.button.hidden = client.apiKey === null;
    this.button.addEventListener("click", () => this.ask());
    this.forgets.addEventListener("click", () => this.forget());
    byId("key-cancel").addEventListener("click", () => this.dialog.close());
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this._use(this.input.value.trim());
    });
  }

  /** Ask for one; `reason` is the server's word. */
  ask(reason = "") {
    byId("key-reason").textContent = reason;
    this.button.hidden = false;
    this.forgets.hidden = this.client.apiKey === null;
    if (!this.dialog.open) this.dialog.showModal();
    this.input.focus();
  }

  /** The server refused the key, or the lack of one. A dialog that was closed is not opened again by itself. */
  refused(error) {
    if (this.client.apiKey === this._refused) return;
    this._refused = this.client.apiKey;
    this.ask(this.client.apiKey === null ? "This server asks for an API key." : "The key was refused: the server does not know it.");
  }

  forget() {
    for (const storage of storages()) storage.removeItem(NAME);
    this.client.apiKey = null;
    this.input.value = "";
    this.forgets.hidden = true;
    byId("key-reason").textContent = "The key is forgotten.";
  }

  _use(key) {
    // A header holds printable characters of Latin-1 alone; fetch throws at others.
    if (!/^[\u0021-\u007e\u00a0-\u00ff]+$/.test(key)) {
      byId("key-reason").textContent = "A key has at least one character, and neither spaces nor control characters.";
      return;
    }
    this.forget();
    this.client.apiKey = key;
    const [session, local] = storages();
    (this.remember.checked ? local : session)?.setItem(NAME, key);
    this.dialog.close();
    this._onUse();
  }
}

function stored() {
  return storages().reduce((key, storage) => key ?? storage.getItem(NAME), null);
}

/** Those that the browser grants; where it grants none, a key lives as long as the page. */
function storages() {
  try {
    return [sessionStorage, localStorage];
  } catch {
    return [];
  }
}
