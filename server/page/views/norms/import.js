// A file, looked at before it is written: what it would add and replace, and its bad lines by number.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { count, plural } from "../../core/format.js";
import { Button, Check, Select, TextArea } from "../../ui/controls.js";
import { Dialog } from "../../ui/dialog.js";
import { Diff } from "../../ui/diff.js";
import { toast } from "../../ui/toast.js";
import { Failed, Loading, Notice } from "../../ui/view.js";
import { Others } from "./conflict.js";
import { importFile } from "./data.js";

const FORMATS = [["jsonl", "JSON lines"], ["csv", "CSV, columns named like the fields"], ["markdown", "Markdown: a rule per heading"], ["text", "text: a rule per paragraph"]];
const ENDINGS = { jsonl: "jsonl", ndjson: "jsonl", json: "jsonl", csv: "csv", md: "markdown", markdown: "markdown", txt: "text" };
const CHARSETS = [["", "UTF-8 or UTF-16"], ["windows-1252", "Windows-1252"], ["iso-8859-1", "Latin-1"]];

export function ImportDialog({ store, onClose }) {
  const [file, setFile] = useState(null);
  const [text, setText] = useState("");
  const [format, setFormat] = useState("jsonl");
  const [charset, setCharset] = useState("");
  const [skipBad, setSkipBad] = useState(false);
  const [seen, setSeen] = useState({});
  const input = useRef(null);
  const blob = file ?? (text.trim() ? new Blob([text]) : null);
  useEffect(() => {
    if (!blob) return setSeen({});
    let current = true;
    setSeen(({ value }) => ({ value, loading: true }));
    const asking = setTimeout(() => importFile(store, blob, { format, charset: file ? charset : "", dry: true }).then(
      (value) => current && setSeen({ value }),
      (error) => current && setSeen({ error }),
    ), file ? 0 : 300);
    return () => {
      current = false;
      clearTimeout(asking);
    };
  }, [file, text, format, charset]);
  const { value, error, loading, writing } = seen;
  const work = value ? value.added + value.replaced : 0;
  const ready = work > 0 && !loading && !writing && (!value.bad.length || skipBad);
  const take = (chosen) => {
    if (!chosen) return;
    setFile(chosen);
    setFormat(ENDINGS[chosen.name.split(".").pop().toLowerCase()] ?? format);
  };
  const go = () => {
    setSeen({ value, writing: true });
    importFile(store, blob, { format, charset: file ? charset : "", skipBad }).then(
      (done) => {
        toast(`Imported: ${count(done.added)} added, ${count(done.replaced)} replaced`);
        onClose();
      },
      (wrong) => setSeen({ error: wrong }),
    );
  };
  const foot = html`<${Button} kind="quiet" onClick=${onClose}>Cancel<//>
    <${Button} kind="primary" icon="upload" disabled=${!ready} onClick=${go}>${writing ? "Importing …" : work ? `Import ${plural(work, "item")}` : "Import"}<//>`;
  return html`
    <${Dialog} kind="wide" title=${`Import into ${store}`} onClose=${onClose} foot=${foot}>
      <div class="stack" onDragOver=${(event) => event.preventDefault()} onDrop=${(event) => { event.preventDefault(); take(event.dataTransfer.files[0]); }}>
        <div class="row">
          <input ref=${input} type="file" hidden aria-label="File" accept=".jsonl,.ndjson,.json,.csv,.md,.markdown,.txt" onChange=${(event) => { take(event.target.files[0]); event.target.value = ""; }} />
          <${Button} icon="upload" onClick=${() => input.current.click()}>${file ? "Another file" : "Choose a file"}<//>
          ${file ? html`<span class="norms-name">${file.name}</span><${Button} small kind="quiet" icon="close" label="Without this file" onClick=${() => setFile(null)} />` : html`<span class="faint small">or drop one here, or paste below</span>`}
        </div>
        ${!file && html`<${TextArea} label="Text" mono rows="5" value=${text} onValue=${setText} placeholder=${'{"text": "Guests may use the pool until nine.", "source": "House rules"}'} />`}
        <div class="grid"><${Select} label="Format" value=${format} options=${FORMATS} onValue=${setFormat} />
          ${file && html`<${Select} label="Encoding" value=${charset} options=${CHARSETS} onValue=${setCharset} />`}</div>
        ${loading && !value && html`<${Loading} what="Reading the file" />`}
        ${error && html`<${Failed} error=${error} />`}
        ${value && html`<${Preview} value=${value} skipBad=${skipBad} onSkip=${setSkipBad} />`}
      </div>
    <//>`;
}

function Preview({ value: { added, replaced, unchanged, bad, changes }, skipBad, onSkip }) {
  return html`
    <p role="status" class="norms-counts"><strong>${count(added)}</strong> to add · <strong>${count(replaced)}</strong> to replace · <strong>${count(unchanged)}</strong> there already${bad.length > 0 && html` · <strong class="norms-bad">${plural(bad.length, "bad line")}</strong>`}</p>
    ${bad.length > 0 && html`
      <${Notice} kind="warn">Nothing is imported while lines are bad, unless they are passed over.
        <div><${Check} label=${`Pass over ${plural(bad.length, "bad line")}`} checked=${skipBad} onValue=${onSkip} /></div><//>
      <div class="scroll-x"><table class="table norms-lines"><caption class="unseen">Bad lines</caption>
        <thead><tr><th scope="col" class="num">Line</th><th scope="col">What is wrong</th></tr></thead>
        <tbody>${bad.slice(0, 200).map(({ line, problem }) => html`<tr key=${line}><td class="num">${line}</td><td>${problem}</td></tr>`)}</tbody></table></div>
      ${bad.length > 200 && html`<p class="faint small">and ${count(bad.length - 200)} more</p>`}`}
    ${changes.length > 0 && html`
      <ul class="norms-preview">${changes.map(({ line, change, item, was }) => html`
        <li key=${line}>
          <span class="faint small nums">line ${line}</span> <span class=${`chip ${change === "added" ? "good" : "warn"}`}>${change === "added" ? "add" : "replace"}</span>
          <p class="norms-reading">${was ? html`<${Diff} from=${was.text} to=${item.text} />` : item.text}</p>
          ${item.answer && html`<p class="norms-reading soft">${was ? html`<${Diff} from=${was.answer ?? ""} to=${item.answer} />` : item.answer}</p>`}
          ${was && html`<${Others} from=${was} to=${item} />`}
        </li>`)}</ul>
      ${added + replaced > changes.length && html`<p class="faint small">and ${count(added + replaced - changes.length)} more</p>`}`}`;
}
