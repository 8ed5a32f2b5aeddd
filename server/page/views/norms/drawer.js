// An item at the side: written, tried, followed back in time.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { go } from "../../core/router.js";
import { useStore } from "../../core/store.js";
import { Button, Select } from "../../ui/controls.js";
import { Drawer } from "../../ui/dialog.js";
import { Tabs } from "../../ui/tabs.js";
import { announce } from "../../ui/toast.js";
import { Failed, Loading, Notice } from "../../ui/view.js";
import { Conflict } from "./conflict.js";
import { Sure } from "./confirm.js";
import { drafts, end, erase, readHistory, readStores, setDraft, useLoad, write } from "./data.js";
import { ItemForm } from "./form.js";
import { NEW, askAgain, conversation } from "./handover.js";
import { History } from "./history.js";
import { asForm, asInline, asItem, called, differing } from "./item.js";
import { Marks } from "./row.js";
import { filtersOf } from "./shelf.js";
import { WhatWouldChange } from "./what-would-change.js";

const FIELDS = ["text", "answer", "source", "scope", "tags", "mandatory", "valid_from", "valid_until", "meta", "id", "kind"];

/** A form for something new. */
export function NewDrawer({ store: given, kind, query }) {
  const stores = useLoad(readStores, []);
  const { [NEW]: kept } = useStore(drafts);
  const form = kept ?? asForm({ kind: kind === "demo" ? "demo" : "norm" });
  const writable = stores.value?.data.filter(({ may }) => may.write) ?? [];
  const likely = writable.find(({ kinds }) => kinds[form.kind] > kinds[form.kind === "demo" ? "norm" : "demo"]);
  const [chosen, setChosen] = useState(null);
  const store = chosen ?? given ?? (likely ?? writable[0])?.name;
  const [tab, setTab] = useState("write");
  const [state, setState] = useState({});
  const close = () => go("norms", given ? [given] : [], given ? filtersOf(query) : {});
  const item = asItem(form);
  const ready = Boolean(item.text && store && (item.kind !== "demo" || item.answer)) && !state.busy;
  const add = () => {
    if (!ready) return;
    setState({ busy: true });
    // Where somebody gives an id, nothing that stands under it is to be written over unseen.
    write(store, item, item.id ? null : undefined).then(
      ({ ids, unchanged }) => {
        setDraft(NEW, null);
        announce(unchanged.length ? "It was there already" : "Added");
        go("norms", [store, ids[0]], { saved: unchanged.length ? "same" : "new" }, { replace: true });
      },
      (error) => setState({ error }),
    );
  };
  const foot = html`<${Button} kind="quiet" onClick=${() => { setDraft(NEW, null); close(); }}>Discard<//>
    <${Button} kind="primary" disabled=${!ready} onClick=${add}>Add to ${store ?? "…"}<//>`;
  const tabs = [["write", "Write"], ...(form.kind === "norm" ? [["try", "What would change"]] : [])];
  const wrong = FIELDS.includes(state.error?.param) ? state.error : null;
  return html`
    <${Drawer} title=${`New ${called(form.kind)}`} onClose=${close} foot=${foot}>
      ${stores.error && html`<${Failed} error=${stores.error} onRetry=${stores.again} />`}
      ${stores.value && !writable.length && html`<${Notice} kind="warn">This key may write no store.<//>`}
      <${Tabs} label="The new item" tabs=${tabs} open=${form.kind === "norm" ? tab : "write"} onOpen=${setTab}>
        ${tab === "try" && form.kind === "norm"
          ? html`<${WhatWouldChange} store=${store} ready=${Boolean(item.text)} change=${{ extra: [asInline(item)], without: [] }} />`
          : html`<div class="stack" onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && add()}>
              ${state.error?.status === 412 && html`<${Notice} kind="bad" alert>There is an item with this id already: it says “${state.error.more.current?.text}”. Choose another id, or open that one.<//>`}
              ${state.error && !wrong && state.error.status !== 412 && html`<${Failed} error=${state.error} />`}
              ${writable.length > 1 && html`<${Select} label="Store" value=${store} options=${writable.map(({ name }) => name)} onValue=${setChosen} />`}
              <${ItemForm} fresh form=${form} wrong=${wrong} onForm=${(next) => setDraft(NEW, next)} about=${writable.find(({ name }) => name === store)} />
            </div>`}
      <//>
    <//>`;
}

/** An item that is, or was. */
export function ItemDrawer({ store, id, query }) {
  const stores = useLoad(readStores, []);
  const { value: history, error, loading, again } = useLoad((signal) => readHistory(store, id, signal), [store, id]);
  const about = stores.value?.data.find(({ name }) => name === store);
  const versions = history?.filter(({ version }) => version) ?? [];
  const last = versions.at(-1);
  const standing = last && !last.ended ? last : null;
  const title = `${last?.kind === "demo" ? "Demonstration" : last ? "Norm" : "Item"} of ${store}`;
  const close = () => go("norms", [store], filtersOf(query));
  if (!history) {
    return html`<${Drawer} title=${title} onClose=${close}>${error ? html`<${Failed} error=${error} onRetry=${again} />` : html`<${Loading} what="Reading the item" />`}<//>`;
  }
  return html`<${Item} ...${{ store, id, query, about, history, loading, again, last, standing, title, close }} />`;
}

function Item({ store, id, query, about, history, loading, again, last, standing, title, close }) {
  const name = `${store}/${id}`;
  const { [name]: kept } = useStore(drafts);
  const may = about?.may ?? { write: false, erase: false };
  const [tab, setTab] = useState(query.get("tab") ?? (standing ? "write" : "history"));
  const [state, setState] = useState({});
  const [asking, setAsking] = useState(null);
  // `after`: the version before; until another is read, nothing is said, so that what is said (and has the focus) stays.
  const [saved, setSaved] = useState(() => (query.get("saved") ? { what: query.get("saved") } : null));
  const shown = saved && (last?.version !== saved.after || (saved.what === "ended" && !standing)) && saved.what;
  const form = kept?.form ?? asForm(last);
  const item = { ...asItem(form), id };
  const changed = standing ? differing(asItem(asForm(standing)), item) : [];
  // What the draft was begun from: where another version stands now, the server says so.
  const based = kept?.version ?? standing?.version ?? null;
  const edit = (next) => {
    setSaved(null);
    setDraft(name, { form: next, version: based });
  };
  const save = (version = based) => {
    if (!changed.length || state.busy) return;
    setState({ busy: true });
    write(store, item, version).then(
      () => done("saved"),
      (error) => setState({ error }),
    );
  };
  const done = (what) => {
    setDraft(name, null);
    setState({});
    setSaved({ what, after: last?.version });
    setTab("write");
    announce(what === "saved" ? "Saved as a new version" : what === "ended" ? "Ended" : "Restored");
  };
  const restore = (version) => write(store, strip(version), standing?.version ?? null).then(() => done("restored"));
  const foot = html`
    ${standing && may.write && html`<${Button} kind="quiet" icon="stop" onClick=${() => setAsking("end")}>End<//>`}
    ${may.erase && html`<${Button} kind="danger" class="norms-erase" icon="trash" onClick=${() => setAsking("erase")}>Erase<//>`}
    <span class="push" />
    ${kept && changed.length > 0 && html`<${Button} kind="quiet" onClick=${() => { setDraft(name, null); setState({}); }}>Undo changes<//>`}
    ${standing && may.write && html`<${Button} kind="primary" disabled=${!changed.length || state.busy} title="Ctrl+Enter" onClick=${() => save()}>Save as version ${standing.version + 1}<//>`}`;
  const norm = last?.kind === "norm";
  const tabs = [...(standing ? [["write", may.write ? "Edit" : "Read"]] : []), ...(norm && standing ? [["try", "What would change"]] : []), ["history", `History (${history.length})`]];
  const open = tabs.some(([each]) => each === tab) ? tab : "history";
  const wrong = FIELDS.includes(state.error?.param) ? state.error : null;
  const conflict = state.error?.status === 412 ? state.error.more.current : undefined;
  return html`
    <${Drawer} title=${title} onClose=${close} foot=${(may.write || may.erase) && last && foot}>
      <div class="stack">
        <p class="norms-which faint small"><code>${store}/${id}</code>${standing && html` <span>version ${standing.version}</span>`}</p>
        ${shown && html`<${Saved} what=${shown} version=${last?.version} kind=${last?.kind} />`}
        ${!standing && !saved && !loading && html`<${Notice}>${last ? "It has ended: no answer heeds it. Any of its versions can be restored." : "It has been erased."}<//>`}
        ${conflict !== undefined && html`<${Conflict} current=${conflict} mine=${item} onMine=${() => save(conflict?.version ?? null)}
          onTheirs=${() => { setDraft(name, null); setState({}); again(); }} />`}
        ${state.error && !wrong && conflict === undefined && html`<${Failed} error=${state.error} />`}
        <${Tabs} label="This item" tabs=${tabs} open=${open} onOpen=${setTab}>
          ${open === "write" && (may.write
            ? html`<div onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && save()}>
                <${ItemForm} form=${form} wrong=${wrong} onForm=${edit} about=${about} /></div>`
            : html`<div class="stack"><p class="norms-reading">${last.text}</p>${last.answer && html`<p class="norms-reading soft">${last.answer}</p>`}<${Marks} item=${last} />
                ${about && html`<p class="faint small">This key may read it, and not write it.</p>`}</div>`)}
          ${open === "try" && html`<${WhatWouldChange} store=${store} ready end=${!changed.length} change=${changed.length ? { extra: [asInline(item)], without: [id] } : { extra: [], without: [id] }} />`}
          ${open === "history" && html`<${History} history=${history} standing=${standing} may=${may} onRestore=${restore} />`}
        <//>
      </div>
    <//>
    ${asking === "end" && html`
      <${Sure} title="End it?" does="End it" onClose=${() => setAsking(null)} act=${() => end(store, id, standing.version).then(() => done("ended"))}>
        <p>No answer heeds it from now on. Its history stays, and it can be restored.</p><blockquote class="norms-quote">${standing.text}</blockquote><//>`}
    ${asking === "erase" && html`
      <${Sure} title="Erase it for good?" does="Erase every version" word="erase" onClose=${() => setAsking(null)}
        act=${() => erase(store, id).then(() => { setDraft(name, null); close(); })}>
        <p>Every version is removed from the store, its indexes and its history, which the law may ask for. Nothing brings it back. When it was, and by which key, stays on record.</p>
        <blockquote class="norms-quote">${last.text}</blockquote><//>`}`;
}

const strip = ({ version: _, recorded: __, ended: ___, ...item }) => item;

/** What was done, and the way back to the answer that was the reason: the button is focused, so that Enter asks again. */
function Saved({ what, version, kind }) {
  const turns = useStore(conversation);
  const element = useRef(null);
  useEffect(() => element.current?.querySelector("button")?.focus(), [what, version]);
  const said = {
    saved: `Saved as version ${version}: it is in the very next answer.`, new: "Added: it is in the very next answer.",
    same: "It was there already, word for word.", ended: "Ended: no answer heeds it any more.", restored: `Restored as version ${version}.`,
  }[what];
  if (!said) return null;
  return html`
    <div ref=${element}><${Notice} kind="good">${said}
      ${turns.length > 0 && kind !== undefined && html`<div class="row norms-again"><${Button} kind="primary" icon="retry" onClick=${askAgain}>Ask again in Compare<//>
        <span class="faint small">“${turns.at(-1).text.slice(0, 80)}”, the same seed</span></div>`}<//></div>`;
}
