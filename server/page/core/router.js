// Which view is open: the address's fragment, `#/VIEW/REST?QUERY`. It never leaves the browser.
import { store } from "./store.js";

function read() {
  const [path, query = ""] = splitOnce(location.hash.replace(/^#\/?/, ""), "?");
  const [view, ...rest] = path.split("/").map(decoded);
  return { view, rest, query: new URLSearchParams(query) };
}

function splitOnce(text, by) {
  const at = text.indexOf(by);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `{view, rest, query}`: the view's name, the path's further parts, and URLSearchParams. */
export const route = store(read());
addEventListener("hashchange", () => route.set(read()));

/** The fragment of a view: `link("records", ["chatcmpl-1"], {tab: "trace"})`. */
export function link(view, rest = [], query = {}) {
  const path = [view, ...rest].map(encodeURIComponent).join("/");
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `#/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

/** Opens a view; `replace` without an entry in the history, as for a filter. */
export function go(view, rest, query, { replace = false } = {}) {
  const to = link(view, rest, query);
  if (!replace) location.hash = to;
  else {
    history.replaceState(null, "", to);
    route.set(read());
  }
}
