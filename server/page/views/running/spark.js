// A line over the last minutes, drawn as SVG. What it shows stands beside it in words and as a number.
import { html } from "../../core/html.js";

const WIDTH = 240;
const HEIGHT = 48;

/** `values`: the last of them is now; null is a gap. `most`: how many fit. */
export function Spark({ values, most, label }) {
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  const top = Math.max(...known, 0) || 1;
  const x = (i) => WIDTH - ((values.length - 1 - i) * WIDTH) / Math.max(most - 1, 1);
  const y = (value) => HEIGHT - 2 - (value / top) * (HEIGHT - 6);
  const runs = [[]];
  values.forEach((value, i) => {
    if (value === null || !Number.isFinite(value)) runs.push([]);
    else runs.at(-1).push([x(i), y(value)]);
  });
  const lines = runs.filter((run) => run.length);
  const path = (run) => run.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const area = (run) => `${path(run)}L${run.at(-1)[0].toFixed(1)} ${HEIGHT}L${run[0][0].toFixed(1)} ${HEIGHT}Z`;
  const last = lines.at(-1)?.at(-1);
  return html`
    <svg class="running-spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${label}>
      ${lines.map((run, i) => html`<path key=${`a${i}`} class="running-area" d=${area(run)} />`)}
      ${lines.map((run, i) => html`<path key=${`l${i}`} class="running-line" d=${path(run)} vector-effect="non-scaling-stroke" />`)}
      ${last && html`<path class="running-dot" d=${`M${last[0]} ${last[1]}h0.01`} vector-effect="non-scaling-stroke" />`}
    </svg>`;
}
