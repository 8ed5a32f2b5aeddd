// What changed on an item from the baseline to the candidate.
import { html } from "../../core/html.js";
import { Icon } from "../../ui/icons.js";

/** Kind of chip, icon and words. */
export const CHANGES = {
  better: ["good", "up", "better"],
  worse: ["bad", "down", "worse"],
  alike: ["", "right", "alike"],
  open: ["", "info", "not judged"],
};

export function Change({ change }) {
  const [kind, icon, words] = CHANGES[change];
  return html`<span class=${`chip ${kind}`}><${Icon} name=${icon} size=${12} />${words}</span>`;
}
