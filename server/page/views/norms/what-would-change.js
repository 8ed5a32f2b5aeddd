// A norm, tried before it is written: the last questions answered with it and without it.
import { html, useEffect, useRef, useState } from "../../core/html.js";
import { plural } from "../../core/format.js";
import { may, server } from "../../core/server.js";
import { useStore } from "../../core/store.js";
import { Button, Select, TextArea } from "../../ui/controls.js";
import { Diff } from "../../ui/diff.js";
import { announce } from "../../ui/toast.js";
import { Failed, Notice } from "../../ui/view.js";
import { asked, compare, recorded, ways } from "./trial.js";

const AT_ONCE = 2;

/** `change`: `{extra, without}` as `norms` takes them; `end`: the norm as it stands is taken away; `ready`: it can be tried. */
export function WhatWouldChange({ store, change, ready, end = false }) {
  const known = useStore(server);
  const all = ways(store, known);
  const [way, setWay] = useState(0);
  const [typed, setTyped] = useState("");
  const [from, setFrom] = useState("compare");
  const [count, setCount] = useState("5");
  const [state, setState] = useState({ results: [] });
  const control = useRef(null);
  useEffect(() => () => control.current?.abort(), []);
  const records = known.who?.records === "full" && may("admin");
  const here = asked();
  const own = typed.split("\n").map((line) => line.trim()).filter(Boolean);
  const run = async () => {
    control.current?.abort();
    const { signal } = (control.current = new AbortController());
    const told = (fields) => !signal.aborted && setState((before) => ({ ...before, ...fields }));
    try {
      const questions = [...own, ...(from === "records" ? await recorded(signal) : here)].slice(0, Math.max(own.length, Number(count)));
      setState({ running: true, results: questions.map((question) => ({ question })) });
      const open = questions.map((question, i) => ({ question, i }));
      const work = async () => {
        for (let next = open.shift(); next && !signal.aborted; next = open.shift()) {
          const { question, i } = next;
          const made = await compare(all[way], store, change, question, signal).catch((error) => ({ error }));
          if (!signal.aborted) setState((before) => ({ ...before, results: before.results.map((each, j) => (i === j ? { question, ...made } : each)) }));
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, work));
      told({ running: false });
      if (!signal.aborted) announce("All questions are answered");
    } catch (error) {
      if (error.name !== "AbortError") told({ running: false, error });
    }
  };
  const some = own.length + (from === "records" ? 1 : here.length) > 0;
  if (!all.length) return html`<${Notice}>No model can answer with this store.<//>`;
  return html`
    <div class="stack">
      <p class="soft small">${end ? "What would change if it were ended" : "What would change if it were saved"}: each question is asked twice, by itself, at temperature 0 and with one seed. Nothing is written.</p>
      <div class="grid">
        <${Select} label="Answered by" value=${String(way)} options=${all.map(({ name }, i) => [String(i), name])} onValue=${(value) => setWay(Number(value))} />
        ${records && html`<${Select} label="Questions" value=${from} options=${[["compare", "of this browser's Compare"], ["records", "of the records"]]} onValue=${setFrom} />`}
        <${Select} label="How many" value=${count} options=${["1", "3", "5", "10"].map((n) => [n, `the last ${n}`])} onValue=${setCount} />
      </div>
      <${TextArea} label="Other questions" rows="2" value=${typed} onValue=${setTyped} hint=${`One a line; they come first. ${from === "compare" ? `Compare has ${plural(here.length, "question")} here.` : ""}`} />
      <div class="row">
        ${state.running
          ? html`<${Button} icon="stop" onClick=${() => { control.current.abort(); setState((before) => ({ ...before, running: false })); }}>Stop<//>`
          : html`<${Button} icon="pulse" disabled=${!ready || !some} onClick=${run}>Try it<//>`}
        ${!ready && html`<span class="faint small">Write the norm first.</span>`}
        <${Sum} results=${state.results} />
      </div>
      ${state.error && html`<${Failed} error=${state.error} />`}
      <ol class="norms-trials">${state.results.map((each, i) => html`<li key=${i}><${Trial} ...${each} running=${state.running} end=${end} /></li>`)}</ol>
    </div>`;
}

function Sum({ results }) {
  const done = results.filter(({ after }) => after);
  if (!done.length) return null;
  const other = done.filter(({ before, after }) => before.text !== after.text).length;
  return html`<span role="status">${other} of ${plural(done.length, "answer")} ${other === 1 ? "is" : "are"} another</span>`;
}

const WORDS = { used: "was given to the model", dropped: "was found, and left out", absent: "was not looked up for this question" };

function Trial({ question, before, after, fate, entry, error, running, end }) {
  const same = after && before.text === after.text;
  return html`
    <article class="norms-trial card" aria-busy=${!after && !error && running ? "true" : "false"}>
      <div class="norms-trial-head"><h3>${question}</h3>
        ${after && html`<span class=${`chip ${same ? "" : "accent"}`}>${same ? "no change" : "another answer"}</span>`}</div>
      ${fate && html`<p class="faint small">The norm ${WORDS[fate]}${entry?.score !== undefined ? ` (likeness ${entry.score.toFixed(2)}, place ${entry.place})` : entry?.mandatory ? " (mandatory)" : ""}.</p>`}
      ${error && html`<${Failed} error=${error} />`}
      ${!after && !error && (running ? html`<p class="loading"><span class="spinner" aria-hidden="true" />Asking …</p>` : html`<p class="faint">Not asked.</p>`)}
      ${after && (same
        ? html`<p class="norms-reading">${after.text}</p>`
        : html`<div class="norms-two">
            <section><h4>As it is</h4><p class="norms-reading">${before.text}</p></section>
            <section><h4>${end ? "Without it" : "With it"}</h4><p class="norms-reading"><${Diff} from=${before.text} to=${after.text} /></p></section>
          </div>`)}
    </article>`;
}
