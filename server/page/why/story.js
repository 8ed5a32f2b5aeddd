// The parts of a trace, each in its tab.
import { html, useState } from "../core/html.js";
import { Boundary } from "../ui/boundary.js";
import { Code } from "../ui/controls.js";
import { Tabs } from "../ui/tabs.js";
import { Empty } from "../ui/view.js";
import { Cost } from "./cost.js";
import { Prompt } from "./prompt.js";
import { Steps } from "./steps.js";
import { Forest } from "./tree/forest.js";

const ofSearch = (note) => note.step === "rain" && (note.commits || note.commit || note.search);

export function Story({ answer }) {
  const { trace, live } = answer;
  const heard = answer.notes ?? [];
  const notes = trace?.trace ?? heard;
  const searched = notes.some(ofSearch);
  const [chosen, setChosen] = useState(null);
  const tabs = [
    ["steps", "Steps"],
    ...(searched ? [["tree", "Tree"]] : []),
    ...(trace ? [["prompt", "Prompt"], ["cost", "Cost"], ["json", "JSON"]] : []),
  ];
  if (!trace && !heard.length) {
    return html`<${Empty} title=${live ? "Nothing to tell yet" : "No trace"}>
      <p>${live ? "What the alignment does appears here as it goes on." : "This answer ended before its trace came."}</p><//>`;
  }
  // Once a search has begun it is what there is to see, until somebody chooses.
  const open = tabs.some(([name]) => name === chosen) ? chosen : searched ? "tree" : "steps";
  return html`
    <div class="why">
      <${Tabs} label="What there is to know" tabs=${tabs} open=${open} onOpen=${setChosen}>
        <${Boundary} at=${open} what="This part of the trace">
        ${open === "steps" && html`<${Steps} notes=${notes} pipeline=${trace?.pipeline} live=${live} onTree=${searched ? () => setChosen("tree") : null} />`}
        ${open === "tree" && html`<${Forest} notes=${notes} live=${live && !trace} />`}
        ${open === "prompt" && html`<${Prompt} prompt=${trace.prompt} />`}
        ${open === "cost" && html`<${Cost} trace=${trace} usage=${answer.usage} />`}
        ${open === "json" && html`<${Code} label="trace" text=${JSON.stringify(trace, null, 2)} />`}
        <//>
      <//>
    </div>`;
}
