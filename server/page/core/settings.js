// What somebody likes, kept in this browser.
import { kept, local } from "./store.js";

/** "light", "dark" or null: as the system has it. */
export const theme = kept("theme", null, local);
theme.watch((chosen) => {
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
});
