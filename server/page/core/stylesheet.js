// Stylesheets that are fetched when they are first needed.
const asked = new Map();

/** Adds one of the page's stylesheets, once; resolves when it holds. `path` is below server/page/. */
export function stylesheet(path) {
  if (asked.has(path)) return asked.get(path);
  const href = new URL(`../${path}`, import.meta.url).href;
  const done = new Promise((resolve, reject) => {
    const element = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${path} can't be read`));
    document.head.append(element);
  });
  asked.set(path, done);
  return done;
}
