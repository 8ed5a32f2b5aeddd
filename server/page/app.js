// The shell: bar, navigation, the open view, and what lies over all of them.
import { html, render, useEffect, useState } from "./core/html.js";
import { key, wanted } from "./core/key.js";
import { go, link, route } from "./core/router.js";
import { identity, may, readServer, server } from "./core/server.js";
import { theme } from "./core/settings.js";
import { useStore } from "./core/store.js";
import { stylesheet } from "./core/stylesheet.js";
import { Boundary } from "./ui/boundary.js";
import { Button } from "./ui/controls.js";
import { Icon } from "./ui/icons.js";
import { KeyDialog } from "./ui/key-dialog.js";
import { Toasts } from "./ui/toast.js";
import { Empty, Failed, Loading, View } from "./ui/view.js";
import { VIEWS } from "./views.js";

const THEMES = [[null, "system", "as the system has it"], ["light", "sun", "light"], ["dark", "moon", "dark"]];

function ThemeButton() {
  const chosen = useStore(theme);
  const at = THEMES.findIndex(([name]) => name === chosen);
  const [next] = THEMES[(at + 1) % THEMES.length];
  return html`<${Button} kind="quiet" icon=${THEMES[at][1]} label=${`Theme: ${THEMES[at][2]}`} onClick=${() => theme.set(next)} />`;
}

function KeyButton() {
  const { who } = useStore(server);
  const mine = useStore(key);
  if (!mine && !who?.keys_wanted) return null;
  const name = who ? `${who.role} of ${who.tenant}` : "no key";
  return html`
    <span class="chip" title=${who?.key ? `key ${who.key}` : undefined}>${name}</span>
    <${Button} kind="quiet" icon="key" label="Change the key" onClick=${() => wanted("")} />`;
}

function Bar({ open }) {
  return html`
    <header class="bar">
      <a class="brand" href=${link(VIEWS[0].name)} aria-label="heedful, to the first view"><img src="page/icon.svg" width="20" height="20" alt="" />heedful</a>
      <nav class="nav" aria-label="Views">
        ${VIEWS.map(({ name, title, icon }) => html`
          <a key=${name} href=${link(name)} aria-current=${name === open ? "page" : undefined}><${Icon} name=${icon} />${title}</a>`)}
      </nav>
      <div class="bar-end"><${KeyButton} /><${ThemeButton} /></div>
    </header>`;
}

const loaded = new Map();

/** A view's component; its module and stylesheet are fetched when it is first opened. */
function useView(entry) {
  const [, again] = useState(0);
  useEffect(() => {
    if (loaded.has(entry.name)) return;
    Promise.all([entry.load(), stylesheet(entry.style)]).then(
      ([module]) => loaded.set(entry.name, { view: module.default }),
      (error) => loaded.set(entry.name, { error: { message: `This view can't be fetched. Is the server still running? (${error.message})` } }),
    ).then(() => again((n) => n + 1));
  }, [entry]);
  return loaded.get(entry.name);
}

function Open({ entry, rest, query }) {
  const found = useView(entry);
  const { state, error, who } = useStore(server);
  useEffect(() => {
    document.title = `${entry.title} · heedful`;
  }, [entry]);
  if (found?.error) return html`<${Failed} error=${found.error} onRetry=${() => location.reload()} />`;
  if (state === "failed" && error.status === 401) {
    return html`
      <${View} title=${entry.title}><${Empty} title="This server wants a key" icon="key">
        <${Button} kind="primary" onClick=${readServer}>Give a key<//><//><//>`;
  }
  if (state === "failed") return html`<${View} title=${entry.title}><${Failed} error=${error} onRetry=${readServer} /><//>`;
  if (!found || !who) return html`<${View} title=${entry.title}><${Loading} /><//>`;
  if (!may(entry.role, who)) return html`<${View} title=${entry.title}><${NotYours} role=${entry.role} who=${who} /><//>`;
  // What was read for somebody else is not drawn for this one.
  return html`<${found.view} key=${identity(who)} rest=${rest} query=${query} />`;
}

const NotYours = ({ role, who }) => html`
  <${Empty} title="Not with this key" icon="key">
    <p>This view needs ${role === "operator" ? "an admin's key of the tenant “default”" : `a key of the role ${role}`}; yours is of the role ${who.role}.</p>
    <${Button} onClick=${() => wanted("")}>Use another key<//>
  <//>`;

function App() {
  const { view, rest, query } = useStore(route);
  const entry = VIEWS.find(({ name }) => name === view) ?? VIEWS[0];
  useEffect(() => {
    if (entry.name !== view) go(entry.name, [], {}, { replace: true });
  }, [view]);
  useEffect(() => {
    // Whoever came by keyboard or listens is at the new view's title; a page that has just been opened stays as it is.
    if (document.activeElement?.closest(".nav, .brand")) document.querySelector("h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [entry]);
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("h1")?.focus(); }}>To the content</a>
    <${Bar} open=${entry.name} />
    <main class="main" id="main"><${Boundary} at=${location.hash} what="This view"><${Open} key=${entry.name} entry=${entry} rest=${rest} query=${query} /><//></main>
    <${KeyDialog} /><${Toasts} />`;
}

render(html`<${App} />`, document.getElementById("app"));
readServer();
