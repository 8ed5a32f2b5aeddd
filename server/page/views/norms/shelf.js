// One store: looked through by meaning, by filters, as of a date; and what can be done with it whole.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { count, moment, plural } from "../../core/format.js";
import { go, link } from "../../core/router.js";
import { server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Input, Select } from "../../ui/controls.js";
import { Icon } from "../../ui/icons.js";
import { toast } from "../../ui/toast.js";
import { Empty, Failed, Loading, Notice, View } from "../../ui/view.js";
import { Sure } from "./confirm.js";
import { call } from "../../core/api.js";
import { dropStore, exportFile, readPage, search, useLoad } from "./data.js";
import { ImportDialog } from "./import.js";
import { asIso, asLocal } from "./item.js";
import { ItemRow } from "./row.js";

/** What of the address is a filter, by the names there. */
const FILTERS = ["q", "kind", "scope", "tag", "mandatory", "valid", "asOf"];
export const filtersOf = (query) => Object.fromEntries(FILTERS.map((name) => [name, query.get(name) ?? ""]));

export function Shelf({ store, query }) {
  const { who } = useStore(server);
  const about = useLoad((signal) => call(`v1/alignment/stores/${encodeURIComponent(store)}`, { signal }), [store]);
  const filter = filtersOf(query);
  const set = (fields) => go("norms", [store], { ...filter, ...fields }, { replace: true });
  const [open, setOpen] = useState(null);
  const found = about.value;
  if (about.error?.status === 403) {
    return html`<${View} title=${store} about=${html`<${Back} />`}><${Empty} title="Not with this key" icon="key">
      <p>${about.error.message}.</p><p>${who.stores ? `Your key may read and write ${who.stores.join(", ")}.` : `Yours is a key of the role ${who.role}.`}</p>
      <a class="button" href=${link("norms")}>To your stores</a><//><//>`;
  }
  if (about.error) return html`<${View} title=${store} about=${html`<${Back} />`}><${Failed} error=${about.error} onRetry=${about.again} /><//>`;
  const kind = found?.kinds.demo > found?.kinds.norm ? "demo" : "norm";
  const actions = found && html`
    ${found.may.write && html`<${Button} small kind="quiet" icon="upload" onClick=${() => setOpen("import")}>Import<//>`}
    <${Button} small kind="quiet" icon="download" onClick=${() => exportFile(store).catch((error) => toast(error.message))}>Export<//>
    ${found.may.erase && html`<${Button} small kind="quiet" icon="trash" onClick=${() => setOpen("drop")}>Drop<//>`}
    ${found.may.write && html`<${Button} kind="primary" icon="plus" onClick=${() => go("norms", [store], { ...filter, add: kind })}>Add<//>`}`;
  return html`
    <${View} title=${store} about=${html`<${Back} />${found && ` ${sizes(found)}`}`} actions=${actions}>
      ${!found ? html`<${Loading} what="Reading the store" />` : html`
        <${Filters} key=${store} filter=${filter} set=${set} found=${found} />
        <${Items} store=${store} filter=${filter} set=${set} found=${found} />`}
    <//>
    ${open === "import" && html`<${ImportDialog} store=${store} onClose=${() => setOpen(null)} />`}
    ${open === "drop" && html`
      <${Sure} title=${`Drop the store ${store}?`} word=${store} does="Drop it" onClose=${() => setOpen(null)}
        act=${() => dropStore(store).then(() => { toast(`${store} is gone`); go("norms"); })}>
        <p>All of its ${plural(found.items, "item")} and their whole history are deleted. Alignments that name it answer no more. Nothing brings it back.</p><//>`}`;
}

const Back = () => html`<a class="norms-back" href=${link("norms")}>All stores</a>`;
const sizes = ({ kinds: { norm, demo } }) => ` · ${[(norm > 0 || !demo) && plural(norm, "norm"), demo > 0 && plural(demo, "demonstration")].filter(Boolean).join(", ")}`;

function Filters({ filter, set, found }) {
  const [typed, setTyped] = useState(filter.q);
  const [more, setMore] = useState(Boolean(filter.kind || filter.scope || filter.tag || filter.mandatory || filter.valid || filter.asOf));
  const waiting = useRef(null);
  useEffect(() => () => clearTimeout(waiting.current), []);
  const look = (text) => {
    setTyped(text);
    clearTimeout(waiting.current);
    waiting.current = setTimeout(() => set({ q: text.trim() }), 300);
  };
  const active = ["kind", "scope", "tag", "mandatory", "valid", "asOf"].filter((name) => filter[name]).length;
  return html`
    <form class="norms-filters" role="search" aria-label="Items" onSubmit=${(event) => { event.preventDefault(); clearTimeout(waiting.current); set({ q: typed.trim() }); }}>
      <div class="norms-look">
        <div class="norms-query"><${Icon} name="search" />
          <input class="input" type="search" aria-label="Search by meaning" placeholder="Search by meaning: ask as a user would" value=${typed} onInput=${(event) => look(event.target.value)} /></div>
        <${Button} icon="sliders" aria-expanded=${String(more)} onClick=${() => setMore(!more)}>Filters${active ? ` (${active})` : ""}<//>
      </div>
      ${more && html`
        <div class="norms-fields">
          <${Select} label="Kind" value=${filter.kind} options=${[["", "all"], ["norm", "norms"], ["demo", "demonstrations"]]} onValue=${(kind) => set({ kind })} />
          <${Select} label="Scope" value=${filter.scope} options=${[["", "all"], ...listed(found.scopes, filter.scope).map((each) => [each, `${each} and everywhere`])]} onValue=${(scope) => set({ scope })} />
          <${Select} label="Tag" value=${filter.tag} options=${[["", "all"], ...listed(found.tags, filter.tag).map((each) => [each, each])]} onValue=${(tag) => set({ tag })} />
          <${Select} label="Mandatory" value=${filter.mandatory} options=${[["", "either"], ["true", "mandatory"], ["false", "not mandatory"]]} onValue=${(mandatory) => set({ mandatory })} />
          <${Select} label="Valid" value=${filter.valid} options=${[["", "whenever"], ["now", "now"]]} onValue=${(valid) => set({ valid })} />
          <${Input} label="As of" type="datetime-local" max=${asLocal(new Date())} value=${asLocal(filter.asOf)} onValue=${(local) => set({ asOf: asIso(local), q: local ? "" : filter.q })} />
        </div>`}
    </form>`;
}

/** What may be chosen, with what the address has chosen though no item has it. */
const listed = (names, chosen) => (chosen && !names.includes(chosen) ? [chosen, ...names] : names);

function Items({ store, filter, set, found }) {
  const { q, asOf } = filter;
  const deps = [store, ...FILTERS.map((name) => filter[name])];
  const searching = q && !asOf;
  const { value, error, loading, again } = useLoad((signal) => (searching ? search(store, q, filter, signal) : readPage(store, filter, 0, signal)), deps);
  const [more, setMore] = useState([]);
  const [state, setState] = useState({});
  useEffect(() => setMore([]), [value]);
  const last = more.length ? more.at(-1) : value;
  const items = value ? [...value.data, ...more.flatMap(({ data }) => data)] : [];
  const further = async () => {
    setState({ loading: true });
    try {
      const page = await readPage(store, filter, last.next_after);
      setMore([...more, page]);
      setState({});
    } catch (wrong) {
      setState({ error: wrong });
    }
  };
  const narrowed = FILTERS.some((name) => name !== "asOf" && filter[name]);
  return html`
    ${asOf && html`<${Notice}>This is what stood on ${moment(asOf)}. It can be read, and restored from an item's history.
      <div class="row"><${Button} small onClick=${() => set({ asOf: "" })}>Back to now<//></div><//>`}
    ${error && html`<${Failed} error=${error} onRetry=${again} />`}
    ${!value && !error && html`<${Loading} what=${searching ? "Searching" : "Reading"} />`}
    ${value && !items.length && html`<${Nothing} store=${store} narrowed=${narrowed} asOf=${asOf} set=${set} may=${found.may} />`}
    ${items.length > 0 && html`
      <p class="unseen" role="status">${searching ? `${plural(items.length, "item")}, the nearest first` : `${plural(items.length, "item")} shown`}</p>
      <ul class="norms-items" aria-busy=${loading ? "true" : "false"}>
        ${items.map((item) => html`<li key=${`${item.id}/${item.version ?? ""}`}><${ItemRow} store=${store} item=${item} query=${filter} /></li>`)}
      </ul>
      <div class="norms-more">
        ${state.error && html`<${Failed} error=${state.error} />`}
        ${last?.next_after && html`<${Button} disabled=${state.loading} onClick=${further}>${state.loading ? "Reading …" : "More"}<//>`}
        <span class="faint small">${count(items.length)}${narrowed || asOf ? "" : ` of ${count(found.items)}`}${searching ? ", the nearest first" : ", in the order written"}</span>
      </div>`}`;
}

const NONE = Object.fromEntries(FILTERS.map((name) => [name, ""]));

function Nothing({ store, narrowed, asOf, set, may }) {
  if (narrowed) return html`<${Empty} title="Nothing passes these filters" icon="search"><${Button} onClick=${() => set({ ...NONE, asOf })}>Clear them<//><//>`;
  if (asOf) return html`<${Empty} title="Nothing stood then" icon="clock"><p>This store was empty, or was not there yet.</p><//>`;
  return html`
    <${Empty} title="Nothing in this store yet" icon="book">
      <p>Write the first norm, or bring a file: JSON lines, CSV, Markdown or text.</p>
      ${may.write && html`<${Button} kind="primary" icon="plus" onClick=${() => go("norms", [store], { add: "norm" })}>Add a norm<//>`}
    <//>`;
}
