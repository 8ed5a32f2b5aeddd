// Where nodes stand: a column for each depth; what the answer took goes straight on, the other branches hang below it,
// the most visited nearest.
import { inAnswer } from "./model.js";

const rank = (a, b) => inAnswer(b) - inAnswer(a) || b.weight - a.weight || a.id - b.id;

/** `{nodes, at, columns, rows}`: each node that is shown with its `x` and `y`, whole numbers, and found by "x,y". */
export function arrange(root) {
  const shifts = new Map();
  measure(root, shifts);
  const nodes = [];
  const at = new Map();
  let columns = 1;
  let rows = 1;
  const waiting = [[root, 0]];
  while (waiting.length) {
    const [node, y] = waiting.pop();
    node.x = node.depth;
    node.y = y;
    nodes.push(node);
    at.set(`${node.x},${y}`, node);
    columns = Math.max(columns, node.x + 1);
    rows = Math.max(rows, y + 1);
    const own = shifts.get(node);
    if (own) own.forEach(([child, shift]) => waiting.push([child, y + shift]));
  }
  return { nodes, at, columns, rows };
}

/**
 * How far down each child of a node stands, and the lowest row that a subtree takes in each of its columns, the deepest
 * first. A branch goes below all that stands in any column of its own.
 */
function measure(root, shifts) {
  const stack = [[root, null, 0]];
  let done = null; // the last subtree's rows
  while (stack.length) {
    const frame = stack.at(-1);
    const [node] = frame;
    if (frame[1] === null) {
      node.children.sort(rank);
      frame[1] = { lows: null, own: [] };
    } else if (done) {
      const { own } = frame[1];
      const child = node.children[frame[2]++];
      if (frame[1].lows === null) {
        frame[1].lows = done;
        own.push([child, 0]);
      } else own.push([child, joined(frame[1], done)]);
      done = null;
    }
    if (node.closed || frame[2] >= node.children.length) {
      done = frame[1].lows ?? [];
      done.push(0);
      if (frame[1].own.length) shifts.set(node, frame[1].own);
      stack.pop();
    } else stack.push([node.children[frame[2]], null, 0]);
  }
}

/** Puts a subtree below what is there; returns how far down. */
function joined(frame, added) {
  const { lows } = frame;
  let shift = 0;
  for (let d = 1; d <= Math.min(lows.length, added.length); d++) shift = Math.max(shift, lows.at(-d) + 1);
  const [longer, shorter, up, down] = lows.length >= added.length ? [lows, added, 0, shift] : [added, lows, shift, 0];
  if (up) for (let i = 0; i < longer.length; i++) longer[i] += up;
  for (let d = 1; d <= shorter.length; d++) {
    const i = longer.length - d;
    longer[i] = Math.max(longer[i], shorter.at(-d) + down);
  }
  frame.lows = longer;
  return shift;
}
