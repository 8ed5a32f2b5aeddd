// Why an answer came out as it did. What it is drawn with is fetched when it is first opened.
import { html, useEffect, useState } from "../core/html.js";
import { stylesheet } from "../core/stylesheet.js";
import { Failed, Loading } from "../ui/view.js";

let loaded = null;

/**
 * `answer`: `{model, alignment, messages, text, usage, trace, notes, live}`. `trace` is the response's `alignment`
 * object (null until it came), `notes` what was heard of it while it was made, `live` says that it still is.
 */
export function Why({ answer }) {
  const [found, setFound] = useState(loaded);
  useEffect(() => {
    if (found) return;
    Promise.all([import("./story.js"), stylesheet("why/why.css")]).then(
      ([module]) => setFound((loaded = { Story: module.Story })),
      (error) => setFound({ error }),
    );
  }, []);
  if (found?.error) return html`<${Failed} error=${found.error} />`;
  if (!found) return html`<${Loading} />`;
  return html`<${found.Story} answer=${answer} />`;
}
