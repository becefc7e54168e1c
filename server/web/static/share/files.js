/** Files to and from the one who looks at the page. */

/** Give a file to be saved. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Take files that are chosen with `input` or dropped anywhere on the page. @param {(text: string) => void} onText */
export function receive(input, onText) {
  const take = async (files) => {
    if (files.length > 0) onText(await files[0].text());
  };
  input.addEventListener("change", async () => {
    await take(input.files);
    input.value = "";
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.dataset.dropping = "";
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) delete document.body.dataset.dropping;
  });
  document.addEventListener("drop", (event) => {
    delete document.body.dataset.dropping;
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    take(event.dataTransfer.files);
  });
}

/** Put text on the clipboard. @returns {Promise<boolean>} whether the browser let us: it does on secure pages alone */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
