/** Dark, light, or as the system has it. */

const NAME = "token-diffusion-theme";
const NEXT = { auto: "dark", dark: "light", light: "auto" };

/** @param {HTMLButtonElement} button which changes it */
export function startTheme(button) {
  let theme = "auto";
  try {
    theme = localStorage.getItem(NAME) ?? "auto";
  } catch {
    // a browser that keeps nothing
  }
  const show = () => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  if (!(theme in NEXT)) theme = "auto";
  show();
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    show();
    try {
      localStorage.setItem(NAME, theme);
    } catch {
      // as above
    }
  });
}
