// The picture of one tree: pan, zoom, hover, keys, and the node in hand in words.
import { html, useEffect, useMemo, useReducer, useRef, useState } from "../../core/html.js";
import { perFrame } from "../../core/frames.js";
import { Button, Check } from "../../ui/controls.js";
import { CELL, colours, draw } from "./draw.js";
import { KeyTree } from "./keys.js";
import { arrange } from "./layout.js";
import { inAnswer, line } from "./model.js";
import { Node } from "./node.js";

const [LEAST, READABLE, MOST] = [0.06, 0.6, 2];

/** `step`: how many commits are shown, Infinity for all; `at` the same as a number. */
export function Picture({ tree, step, at, live }) {
  const canvas = useRef(null);
  const state = useRef({ camera: { x: -24, y: -20, zoom: 1 }, ratio: 1, width: 0, height: 0 }).current;
  const [marked, mark] = useState(live ? tree.head : tree.root);
  const [hovered, hover] = useState(null);
  const [focused, setFocused] = useState(false);
  const [following, follow] = useState(true);
  const [shape, reshape] = useReducer((n) => n + 1, 0);
  const size = tree.nodes.size;
  const layout = useMemo(() => arrange(tree.root), [tree, size, tree.commits.length, shape]);
  const there = (node) => tree.there(node, step);
  const taken = (node) => inAnswer(node) && (step === Infinity || node.committed <= step);
  const fresh = at ? tree.commits[at - 1].node : tree.root;
  state.paint = () => {
    if (!state.width) return;
    state.look ??= colours(canvas.current.parentElement);
    const { camera, look, ratio } = state;
    draw(canvas.current, layout, { camera, there, taken, marked: hovered ?? marked, fresh, focused: focused && !hovered, look, ratio });
  };
  const paint = useMemo(() => perFrame(() => state.paint()), []);
  useEffect(paint);

  useEffect(() => {
    const element = canvas.current;
    const fit = () => {
      const { clientWidth: width, clientHeight: height } = element;
      const first = !state.width;
      Object.assign(state, { width, height, ratio: devicePixelRatio || 1 });
      if (first && !live && wholeZoom(state, layoutNow.current) >= READABLE) overview(state, layoutNow.current);
      element.width = Math.round(width * state.ratio);
      element.height = Math.round(height * state.ratio);
      state.paint();
    };
    const restyle = () => {
      state.look = null;
      paint();
    };
    const sizes = new ResizeObserver(fit);
    sizes.observe(element);
    const themes = new MutationObserver(restyle);
    themes.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", restyle);
    const turn = (event) => wheel(event, state, layoutNow.current, paint, () => follow(false));
    element.addEventListener("wheel", turn, { passive: false });
    return () => {
      sizes.disconnect();
      themes.disconnect();
      dark.removeEventListener("change", restyle);
      element.removeEventListener("wheel", turn);
    };
  }, []);
  const layoutNow = useRef(layout);
  layoutNow.current = layout;

  // The newest commit, or while it searches the newest leaf, stays in sight.
  const newest = live && step === Infinity ? (tree.latest ?? fresh) : fresh;
  const begun = useRef(live); // a search that is over is seen from its beginning
  useEffect(() => {
    if (!begun.current) return;
    if (following) show(newest, state, 0.7);
    paint();
  }, [newest, following, layout]);
  useEffect(() => {
    if (begun.current && following) mark(fresh);
    begun.current = true;
  }, [fresh]);

  const choose = (node) => {
    mark(node);
    show(node, state, 0.5);
    paint();
  };
  const toggle = (node) => {
    if (!node.children.length) return;
    node.closed = !node.closed;
    reshape();
  };
  const zoomed = (factor) => {
    scale(state, factor, state.width / 2, state.height / 2);
    paint();
  };
  const whole = () => {
    follow(false);
    overview(state, layout);
    paint();
  };
  const pointer = usePointers(state, layout, { there, hover, choose, toggle, moved: () => { follow(false); paint(); } });
  const picked = hovered ?? marked;
  return html`
    <div class="why-tools row">
      <${Check} label="follow the answer" checked=${following} onValue=${follow} />
      <span class="push row">
        <${Button} small kind="quiet" icon="minus" label="Smaller" onClick=${() => zoomed(1 / 1.4)} />
        <${Button} small kind="quiet" icon="plus" label="Larger" onClick=${() => zoomed(1.4)} />
        <${Button} small kind="quiet" onClick=${whole}>All of it<//>
        <${Button} small kind="quiet" onClick=${() => choose(fresh)}>To the commit<//>
      </span>
    </div>
    <div class="why-picture" style=${{ height: `${(layout.rows + 1) * CELL.height + 24}px` }} data-nodes=${layout.nodes.length} data-marked=${line(picked)}>
      <canvas ref=${canvas} aria-hidden="true" ...${pointer}></canvas>
      <${KeyTree} tree=${tree} marked=${marked} there=${there} onMark=${choose} onToggle=${toggle} onFocus=${setFocused} />
    </div>
    <${Legend} />
    <${Node} node=${picked} tree=${tree} closed=${picked.closed} onToggle=${() => toggle(picked)} />`;
}

const Legend = () => html`
  <ul class="why-signs small soft" aria-label="What the signs mean">
    <li><span class="why-sign good" aria-hidden="true">▲</span>judged good</li>
    <li><span class="why-sign" aria-hidden="true">▬</span>neither</li>
    <li><span class="why-sign bad" aria-hidden="true">▼</span>judged bad</li>
    <li><span class="why-sign line" aria-hidden="true"></span>the answer; the wider, the more visits</li>
    <li><span class="why-sign warn" aria-hidden="true">↺</span>came back to from another branch</li>
  </ul>`;

/** At which the whole tree is in sight. */
function wholeZoom({ width, height }, { columns, rows }) {
  return Math.min(1, width / (columns * CELL.width + 20), height / (rows * CELL.height + 20));
}

function overview(state, layout) {
  state.camera = { zoom: Math.max(LEAST, wholeZoom(state, layout)), x: -8, y: -10 };
}

/** Brings a node into sight, `where` of the width from the left, if it is not well inside. */
function show(node, state, where) {
  const { camera, width, height } = state;
  if (!width || node.x === undefined) return;
  const [left, top] = [node.x * CELL.width, node.y * CELL.height];
  const [across, down] = [width / camera.zoom, height / camera.zoom];
  const edge = Math.min(CELL.width, across / 6);
  if (left < camera.x + edge || left + CELL.width > camera.x + across - edge / 2) camera.x = Math.max(-24, left - across * where);
  if (top < camera.y + 8 || top + CELL.height > camera.y + down - 8) camera.y = Math.max(-20, top - down / 2);
}

function scale(state, factor, x, y) {
  const { camera } = state;
  const zoom = Math.min(MOST, Math.max(LEAST, camera.zoom * factor));
  camera.x += x / camera.zoom - x / zoom;
  camera.y += y / camera.zoom - y / zoom;
  camera.zoom = zoom;
}

/** Moves the picture where it can be moved; else the page scrolls. With Ctrl, as by pinching, it zooms. */
function wheel(event, state, layout, paint, moved) {
  const { camera, width, height } = state;
  if (event.ctrlKey || event.metaKey) {
    const { left, top } = event.currentTarget.getBoundingClientRect();
    scale(state, Math.exp(-event.deltaY / 200), event.clientX - left, event.clientY - top);
  } else {
    const most = [layout.columns * CELL.width - width / camera.zoom + 24, layout.rows * CELL.height - height / camera.zoom + 20];
    const [dx, dy] = event.shiftKey ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
    const x = Math.max(-24, Math.min(Math.max(camera.x, most[0]), camera.x + dx / camera.zoom));
    const y = Math.max(-20, Math.min(Math.max(camera.y, most[1]), camera.y + dy / camera.zoom));
    if (x === camera.x && y === camera.y) return;
    Object.assign(camera, { x, y });
  }
  event.preventDefault();
  moved();
  paint();
}

/** Dragging, pinching, hovering and choosing. */
function usePointers(state, layout, { there, hover, choose, toggle, moved }) {
  const held = useRef(new Map()).current;
  const began = useRef(null);
  const place = (event) => [event.nativeEvent?.offsetX ?? event.offsetX, event.nativeEvent?.offsetY ?? event.offsetY];
  const under = (event) => {
    const [x, y] = place(event);
    const [wx, wy] = [state.camera.x + x / state.camera.zoom, state.camera.y + y / state.camera.zoom];
    const node = layout.at.get(`${Math.floor(wx / CELL.width)},${Math.floor(wy / CELL.height)}`);
    return node && wx - node.x * CELL.width <= CELL.pill && there(node) ? node : null;
  };
  return {
    onPointerDown(event) {
      event.currentTarget.setPointerCapture(event.pointerId);
      held.set(event.pointerId, place(event));
      began.current = held.size === 1 ? place(event) : null;
    },
    onPointerMove(event) {
      const before = held.get(event.pointerId);
      if (!before) return hover(event.pointerType === "mouse" ? under(event) : null);
      const now = place(event);
      held.set(event.pointerId, now);
      if (held.size === 2) {
        const [a, b] = [...held.values()];
        const other = a === now ? b : a;
        const far = (from) => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
        scale(state, far(now) / far(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (began.current && Math.hypot(now[0] - began.current[0], now[1] - began.current[1]) < 4) return undefined;
      state.camera.x -= (now[0] - before[0]) / state.camera.zoom / held.size;
      state.camera.y -= (now[1] - before[1]) / state.camera.zoom / held.size;
      if (held.size === 1) began.current = null;
      return moved();
    },
    onPointerUp(event) {
      held.delete(event.pointerId);
      const node = began.current && under(event);
      began.current = null;
      if (node) choose(node);
    },
    onPointerCancel: (event) => held.delete(event.pointerId),
    onPointerLeave: () => hover(null),
    onDblClick(event) {
      const node = under(event);
      if (node) toggle(node);
    },
  };
}
