// The tree on a canvas. Colours are the page's own, read from its stylesheet.
import { judged, line } from "./model.js";

/** Of a node's cell, and of the pill in it, in pixels at full size. */
export const CELL = { width: 132, height: 28, pill: 112, tall: 21 };
const SMALL = 0.5; // below, texts can't be read and are left out

const NAMES = ["text", "soft", "faint", "line", "line-strong", "surface", "sunken", "accent", "accent-weak", "good", "good-weak", "bad", "bad-weak", "warn", "focus"];

/** The page's colours as they hold for an element at this moment. */
export function colours(element) {
  const probe = document.createElement("span");
  element.append(probe);
  const read = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = Object.fromEntries(NAMES.map((name) => [name, read(name)]));
  found.font = getComputedStyle(element).fontFamily;
  probe.remove();
  return found;
}

/**
 * Draws all that is to be seen. `camera`: `{x, y, zoom}`, the world's point at the canvas's left upper corner and pixels
 * for one of the world's. `there(node)`: whether it is drawn at all, `taken(node)` whether as part of the answer.
 * `marked`: the node in hand.
 */
export function draw(canvas, layout, { camera, there, taken, marked, fresh, focused, look, ratio }) {
  const context = canvas.getContext("2d");
  const { x, y, zoom } = camera;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.setTransform(ratio * zoom, 0, 0, ratio * zoom, -x * zoom * ratio, -y * zoom * ratio);
  const right = x + canvas.width / ratio / zoom;
  const low = y + canvas.height / ratio / zoom;
  const shown = (node) => {
    const [left, top] = [node.x * CELL.width, node.y * CELL.height];
    return left < right + CELL.width && left + CELL.width > x && top < low && top + CELL.height > y && there(node);
  };
  context.lineCap = "round";
  for (const node of layout.nodes) {
    if (!node.parent || !there(node) || !reaches(node, x, right, y, low)) continue;
    edge(context, node, taken(node), look, zoom);
  }
  context.font = `12px ${look.font}`;
  context.textBaseline = "middle";
  for (const node of layout.nodes) if (shown(node)) pill(context, node, taken(node), { look, zoom, marked, fresh, focused });
}

/** Whether the line to a node's parent can be seen. */
function reaches(node, left, right, top, low) {
  const [x0, x1] = [node.parent.x * CELL.width, (node.x + 1) * CELL.width];
  const [y0, y1] = [node.parent.y * CELL.height, (node.y + 1) * CELL.height];
  return x1 > left && x0 < right && y1 > top && y0 < low;
}

/** As wide as it was visited. */
function edge(context, node, taken, look, zoom) {
  const from = [node.parent.x * CELL.width + CELL.pill, (node.parent.y + 0.5) * CELL.height];
  const to = [node.x * CELL.width, (node.y + 0.5) * CELL.height];
  context.lineWidth = Math.max(0.75 / zoom, Math.min(9, 0.75 + 1.1 * Math.sqrt(node.visits)));
  context.strokeStyle = taken ? look.accent : look["line-strong"];
  context.globalAlpha = taken ? 1 : 0.55;
  context.beginPath();
  context.moveTo(...from);
  if (from[1] === to[1]) context.lineTo(...to);
  else if (zoom < SMALL / 2) {
    context.lineTo((from[0] + to[0]) / 2, from[1]);
    context.lineTo((from[0] + to[0]) / 2, to[1]);
    context.lineTo(...to);
  }
  else {
    const bend = from[0] + (CELL.width - CELL.pill) * 0.5;
    const round = Math.min(8, (to[1] - from[1]) / 2);
    context.lineTo(bend - 4, from[1]);
    context.quadraticCurveTo(bend, from[1], bend, from[1] + round);
    context.lineTo(bend, to[1] - round);
    context.quadraticCurveTo(bend, to[1], Math.min(bend + round, to[0]), to[1]);
    context.lineTo(...to);
  }
  context.stroke();
  context.globalAlpha = 1;
}

function pill(context, node, taken, { look, zoom, marked, fresh, focused }) {
  const [left, top] = [node.x * CELL.width, node.y * CELL.height + (CELL.height - CELL.tall) / 2];
  const kind = judged(node);
  if (zoom < SMALL / 2 && node !== marked) {
    // A smear of colour is all that can be seen, and there are thousands.
    context.fillStyle = taken ? look.accent : kind === "mixed" ? look["line-strong"] : look[kind];
    context.globalAlpha = taken ? 1 : 0.5;
    context.fillRect(left, top, CELL.pill, CELL.tall);
    context.globalAlpha = 1;
    return;
  }
  context.beginPath();
  context.roundRect(left, top, CELL.pill, CELL.tall, 5);
  context.fillStyle = node.depth === 0 ? look.surface : look[kind === "mixed" ? "sunken" : `${kind}-weak`];
  context.fill();
  context.lineWidth = taken ? 1.75 : 1;
  context.strokeStyle = node === fresh || taken ? look.accent : look.line;
  context.stroke();
  if (node === marked) {
    context.lineWidth = 2 / Math.min(1, zoom);
    context.strokeStyle = focused ? look.focus : look.soft;
    context.beginPath();
    context.roundRect(left - 3, top - 3, CELL.pill + 6, CELL.tall + 6, 7);
    context.stroke();
  }
  if (zoom < SMALL) return;
  if (node.rewinds) rewind(context, left, top, look);
  if (node.depth) sign(context, left + 10, top + CELL.tall / 2, kind, look);
  context.fillStyle = look.text;
  const hidden = node.closed ? count(node) : 0;
  const room = CELL.pill - 26 - (hidden ? 30 : 0);
  context.fillText(fitted(context, node, room), left + 20, top + CELL.tall / 2 + 0.5);
  if (hidden) {
    context.fillStyle = look.soft;
    context.textAlign = "right";
    context.fillText(`+${hidden}`, left + CELL.pill - 6, top + CELL.tall / 2 + 0.5);
    context.textAlign = "left";
  }
}

/** What the judge thought, as a shape: a triangle up, a bar, a triangle down. */
export function sign(context, x, y, kind, look) {
  context.fillStyle = look[{ good: "good", bad: "bad", mixed: "soft" }[kind]];
  context.beginPath();
  if (kind === "mixed") context.rect(x - 4, y - 1.25, 8, 2.5);
  else {
    const up = kind === "good" ? -1 : 1;
    context.moveTo(x - 4.5, y - up * 3.5);
    context.lineTo(x + 4.5, y - up * 3.5);
    context.lineTo(x, y + up * 4);
  }
  context.fill();
}

/** Here a search came back to from another branch: an arrow that turns round. */
function rewind(context, left, top, look) {
  context.beginPath();
  context.arc(left, top, 6, 0, 2 * Math.PI);
  context.fillStyle = look.surface;
  context.fill();
  context.strokeStyle = context.fillStyle = look.warn;
  context.lineWidth = 1.25;
  context.beginPath();
  context.arc(left, top, 3.5, -Math.PI * 0.85, Math.PI * 0.6);
  context.stroke();
  context.beginPath();
  context.moveTo(left - 5.5, top - 3.5);
  context.lineTo(left - 1, top - 2.5);
  context.lineTo(left - 4, top + 1.5);
  context.fill();
}

function fitted(context, node, room) {
  if (node.short?.text === node.text && node.short.room === room) return node.short.line;
  let text = line(node);
  if (text.length > 40) text = text.slice(0, 40);
  let cut = text;
  while (cut.length > 1 && context.measureText(cut === text ? cut : `${cut}…`).width > room) cut = cut.slice(0, -1);
  const made = cut === line(node) ? cut : `${cut.trimEnd()}…`;
  node.short = { text: node.text, room, line: made };
  return made;
}

/** Nodes below one. */
export function count(node) {
  let sum = 0;
  const waiting = [...node.children];
  while (waiting.length) {
    const each = waiting.pop();
    sum += 1;
    waiting.push(...each.children);
  }
  return sum;
}
