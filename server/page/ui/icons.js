// Icons of 16 px, drawn here in strokes. They say nothing to a screen reader: what they mean stands beside them, or in
// their button's label.
import { html } from "../core/html.js";

const PATHS = {
  columns: "M2.5 3.5h11v9h-11zM8 3.5v9",
  book: "M3 3.5c2-.8 3.7-.6 5 .5v9c-1.3-1.1-3-1.3-5-.5zM13 3.5c-2-.8-3.7-.6-5 .5v9c1.3-1.1 3-1.3 5-.5z",
  clock: "M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11zM8 5v3l2 1.5",
  chart: "M2.5 13.5h11M4.5 11V8M8 11V3.5M11.5 11V6",
  pulse: "M1.5 8.5h3l2-5 3 9 2-4h3",
  plus: "M8 3v10M3 8h10",
  close: "M4 4l8 8M12 4l-8 8",
  send: "M8 13V3.5M4 7l4-4 4 4",
  stop: "M4.5 4.5h7v7h-7z",
  retry: "M13 8a5 5 0 1 1-1.5-3.6M13 2.5v2.8h-2.8",
  dice: "M3.5 3.5h9v9h-9zM6 6h.01M10 6h.01M8 8h.01M6 10h.01M10 10h.01",
  edit: "M3 13l.6-2.6 7.2-7.2 2 2-7.2 7.2z",
  copy: "M5.5 5.5h7v8h-7zM3.5 10.5v-8h7",
  link: "M6.5 9.5l3-3M7 4.5l1.5-1.5a2.6 2.6 0 0 1 3.8 3.8L10.8 8.3M9 11.5L7.5 13a2.6 2.6 0 0 1-3.8-3.8l1.5-1.5",
  image: "M2.5 3.5h11v9h-11zM2.5 11l3-3 2.5 2.5 2-2 3.5 3.5M10.3 6.2h.01",
  sliders: "M2.5 5h6M11.5 5h2M2.5 11h2M7.5 11h6M10 3.5v3M6 9.5v3",
  eye: "M1.5 8c1.6-2.8 3.8-4.2 6.5-4.2s4.9 1.4 6.5 4.2c-1.6 2.8-3.8 4.2-6.5 4.2S3.1 10.8 1.5 8zM8 6.3a1.7 1.7 0 1 1 0 3.4 1.7 1.7 0 0 1 0-3.4z",
  hidden: "M2.5 2.5l11 11M6.7 4c3.2-.6 5.8.7 7.8 4-.5.8-1 1.5-1.6 2M4 5.3C3 6 2.2 6.9 1.5 8c2.3 3.8 5.4 5 8.5 3.9",
  why: "M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11zM6.3 6.3c.2-1 .9-1.5 1.8-1.5 1 0 1.7.6 1.7 1.5 0 1.3-1.8 1.3-1.8 2.7M8 11.2h.01",
  key: "M10.5 2.5a3 3 0 1 1 0 6 3 3 0 0 1 0-6zM8.3 7.7L3 13M4.5 11.5l1.5 1.5",
  sun: "M8 5.3a2.7 2.7 0 1 1 0 5.4 2.7 2.7 0 0 1 0-5.4zM8 1.5v1M8 13.5v1M1.5 8h1M13.5 8h1M3.4 3.4l.7.7M11.9 11.9l.7.7M3.4 12.6l.7-.7M11.9 4.1l.7-.7",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.3 5.3 0 1 0 6.5 6.5z",
  system: "M2.5 3.5h11v7h-11zM6 13.5h4M8 10.5v3",
  info: "M8 2.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11zM8 7.3v3.5M8 5h.01",
  warn: "M8 2.5l6 10.5H2zM8 6.5v3M8 11.3h.01",
  check: "M3 8.5l3.2 3.2L13 4.5",
  trash: "M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.6 9h5.8l.6-9",
  down: "M4 6l4 4 4-4",
  up: "M4 10l4-4 4 4",
  right: "M6 4l4 4-4 4",
  left: "M10 4L6 8l4 4",
  minus: "M3 8h10",
  play: "M5 3.5l7.5 4.5L5 12.5z",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  download: "M8 2.5V10M4.8 7L8 10.2 11.2 7M2.5 13.5h11",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9zM10.3 10.3l3.2 3.2",
  upload: "M8 10.2V2.7M4.8 5.7L8 2.5l3.2 3.2M2.5 13.5h11",
  code: "M5.5 4.5L2 8l3.5 3.5M10.5 4.5L14 8l-3.5 3.5",
};

export const Icon = ({ name, size = 16 }) => html`
  <svg width=${size} height=${size} viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.4"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
