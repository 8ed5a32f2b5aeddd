// What can't be drawn says so in its place, and the rest of the page goes on: what is drawn comes from models, files,
// links and other people's strategies.
import { html, useEffect, useErrorBoundary } from "../core/html.js";
import { Failed } from "./view.js";

/** `at`: what is shown; where that is another, it is tried anew. `what` is said to have failed. */
export function Boundary({ at, what = "What stands here", children }) {
  const [error, again] = useErrorBoundary((thrown) => console.error(thrown));
  useEffect(() => {
    if (error) again();
  }, [at]);
  return error ? html`<${Failed} error=${{ message: `${what} can't be drawn: ${error.message ?? error}` }} onRetry=${again} />` : children;
}
