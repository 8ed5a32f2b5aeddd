// A search's trees with what plays them: one tree for each choice, commit by commit.
import { html, useEffect, useMemo, useRef, useState } from "../../core/html.js";
import { count as number, plural } from "../../core/format.js";
import { Button, Select } from "../../ui/controls.js";
import { Empty } from "../../ui/view.js";
import { hear, treesOf } from "./model.js";
import { Picture } from "./picture.js";

const PACE = 800; // milliseconds of a commit while it plays

/** `live`: the search goes on, and `notes` grow. */
export function Forest({ notes, live }) {
  const heard = useRef({ of: null, trees: new Map(), from: 0 });
  const told = useMemo(() => treesOf(notes), [notes]);
  if (!told.length) {
    if (heard.current.of !== notes) heard.current = { of: notes, trees: new Map(), from: 0 };
    heard.current.from = hear(heard.current.trees, notes, heard.current.from);
  }
  const trees = told.length ? told : [...heard.current.trees].map(([choice, tree]) => ({ choice, tree, note: null }));
  const [chosen, setChosen] = useState(null);
  const open = trees.find(({ choice }) => choice === chosen) ?? trees[0];
  if (!open) return html`<${Empty} title="No search yet" />`;
  return html`
    ${trees.length > 1 && html`<div class="why-choice"><${Select} label="Choice" value=${String(open.choice)}
      options=${trees.map(({ choice }) => [String(choice), `Choice ${choice + 1}`])} onValue=${(value) => setChosen(Number(value))} /></div>`}
    <${Player} key=${open.choice} tree=${open.tree} note=${open.note} live=${live} />`;
}

function Player({ tree, note, live }) {
  const last = tree.commits.length;
  const [step, setStep] = useState(null); // null: at the end, however far that is
  const [playing, setPlaying] = useState(false);
  const at = step === null ? last : Math.min(step, last);
  useEffect(() => {
    if (!playing) return;
    const timer = setInterval(() => setStep((now) => {
      const next = (now ?? last) + 1;
      if (next < last) return next;
      setPlaying(false);
      return null;
    }), PACE);
    return () => clearInterval(timer);
  }, [playing, last]);
  const go = (to) => {
    setPlaying(false);
    setStep(to >= last ? null : Math.max(0, to));
  };
  const play = () => {
    if (!playing && at >= last) setStep(0);
    setPlaying(!playing);
  };
  if (!last && !tree.open) {
    return html`<${Empty} title="Nothing was searched"><p>${note?.outcome ? `${note.outcome}.` : ""}</p><//>`;
  }
  return html`
    <p class="why-sum small soft nums">
      ${plural(tree.searches, "search", "searches")}, ${plural(tree.rewinds, "rewind")}, ${plural(last, "commit")},
      ${" "}${plural(tree.nodes.size - 1, "node")}${note?.nodes_left_out ? `, ${number(note.nodes_left_out)} more left out` : ""}
      ${live && html`<span class="chip accent"><span class="spinner" aria-hidden="true" />live</span>`}
    </p>
    <div class="why-player">
      <${Button} small icon=${playing ? "pause" : "play"} label=${playing ? "Pause" : "Play commit by commit"} disabled=${!last} onClick=${play} />
      <${Button} small kind="quiet" icon="left" label="One commit back" disabled=${at <= 0} onClick=${() => go(at - 1)} />
      <${Button} small kind="quiet" icon="right" label="One commit on" disabled=${step === null} onClick=${() => go(at + 1)} />
      <input type="range" min="0" max=${last} value=${at} aria-label="Commit" aria-valuetext=${said(tree, at)}
        onInput=${(event) => go(Number(event.target.value))} />
      <span class="nums small why-of">${at} of ${last}</span>
    </div>
    <${Answer} tree=${tree} at=${at} />
    <${Picture} tree=${tree} step=${step === null ? Infinity : at} at=${at} live=${live} />`;
}

const said = (tree, at) => (at ? `Commit ${at} of ${tree.commits.length}: ${tree.commits[at - 1].text.trim()}` : "Before the first commit");

/** What is written so far, the newest set marked. */
function Answer({ tree, at }) {
  const now = tree.commits[at - 1];
  const box = useRef(null);
  useEffect(() => {
    box.current.scrollTop = box.current.scrollHeight;
  }, [at]);
  const rewinds = useMemo(() => (at ? tree.rewindsOf(at) : 0), [tree, at]);
  return html`
    <div class="why-written">
      <p ref=${box} tabindex="0" role="region" aria-label="The answer so far">${tree.commits.slice(0, Math.max(0, at - 1)).map(({ text }) => text).join("")}${now && html`<mark>${now.text}</mark>`}${!now && html`<span class="faint">Nothing is committed yet.</span>`}</p>
      <p class="small soft nums">${now ? `This commit: ${plural(now.searches, "search", "searches")}, ${plural(rewinds, "rewind")}.` : ""}</p>
    </div>`;
}
