// A search's tree, out of the note that sums it up or of what is heard while it goes on.

/**
 * A node is known by the number of the inner search that reached it first; the root, where the answer begins, by 0.
 * `committed` is the number of the commit that took it (0: none), `taken` whether it went out uncommitted.
 */
function made(id, parent) {
  return {
    id, parent, depth: parent ? parent.depth + 1 : 0, children: [], text: "", visits: 0, value: 0, weight: 0, prior: null,
    end: null, committed: 0, taken: false, rewinds: 0, closed: false,
  };
}

export class Tree {
  constructor() {
    this.root = made(0, null);
    this.nodes = new Map([[0, this.root]]);
    /** Each commit: `{node, text, searches, upto}`, `upto` being all searches until then. */
    this.commits = [];
    this.searches = 0;
    this.rewinds = 0;
    /** The last committed node. */
    this.head = this.root;
    /** Whether something was searched after the last commit. */
    this.open = false;
  }

  /** What a choice's note tells at the end. */
  static of(note) {
    const tree = new Tree();
    for (const commit of note.commits ?? []) tree.commit(commit);
    if (note.open) {
      tree.open = true;
      for (const child of note.open.children) tree.#put(child, tree.head);
    }
    tree.searches = note.searches ?? tree.searches;
    tree.rewinds = note.rewinds ?? 0;
    return tree;
  }

  /** One inner search, as it is heard: figures on its path are our own sums until a commit brings the exact ones. */
  search({ number, node: id, parent: above, text, value, rewind, end }) {
    const parent = this.nodes.get(above) ?? this.head;
    const node = this.nodes.get(id) ?? this.#add(id, parent);
    Object.assign(node, { text, end: end ?? null });
    if (rewind) node.rewinds += 1;
    for (let at = node; at && at !== this.head; at = at.parent) {
      at.visits += 1;
      at.weight += 1;
      at.value += (value - at.value) / at.visits;
    }
    this.searches = number;
    this.rewinds += rewind ? 1 : 0;
    this.open = true;
    this.latest = node;
  }

  commit({ text, searches, children }) {
    const number = this.commits.length + 1;
    const before = this.head;
    let taken = null;
    for (const child of children) {
      const node = this.#put(child, before);
      if (child.committed) taken = node;
    }
    taken ??= this.#add(-number, before); // one that the note had no room for
    taken.text = text;
    taken.committed = number;
    this.head = taken;
    const upto = (this.commits.at(-1)?.upto ?? 0) + searches;
    this.commits.push({ node: taken, text, searches, upto });
    this.searches = Math.max(this.searches, upto);
    this.open = false;
  }

  #put(told, parent) {
    const node = this.nodes.get(told.search) ?? this.#add(told.search, parent);
    const { text, visits, value, weight, prior = null, end = null, taken = false, rewinds = 0 } = told;
    Object.assign(node, { text, visits, value, weight, prior, end, taken, rewinds });
    for (const child of told.children ?? []) this.#put(child, node);
    return node;
  }

  #add(id, parent) {
    const node = made(id, parent);
    parent.children.push(node);
    this.nodes.set(id, node);
    return node;
  }

  /** Whether a node was there when `step` commits had been made. */
  there(node, step) {
    if (step >= this.commits.length || node === this.root) return true;
    if (node.committed) return node.committed <= step || node.id <= this.#upto(step);
    return node.id <= this.#upto(step);
  }

  #upto(step) {
    return step ? this.commits[step - 1].upto : 0;
  }

  /** Rewinds between two commits. */
  rewindsOf(step) {
    const [from, to] = [this.#upto(step - 1), this.#upto(step)];
    let sum = 0;
    for (const node of this.nodes.values()) if (node.id > from && node.id <= to) sum += node.rewinds;
    return sum;
  }
}

/** Whether a node is part of the answer. */
export const inAnswer = (node) => node.committed > 0 || node.taken || node.depth === 0;

/** "good", "bad" or "mixed": what the judge thought, as one word. */
export const judged = ({ value }) => (value >= 1 / 3 ? "good" : value <= -1 / 3 ? "bad" : "mixed");

/** A set's text on one line; what can't be seen is named. */
export function line(node) {
  if (node.depth === 0) return "start";
  const text = node.text.replace(/\s*\n\s*/g, " ⏎ ").trim();
  return text || (node.end ? "end" : "space");
}

/** Every choice's tree, and what was heard of it: `[{choice, tree, note}]`. */
export function treesOf(notes) {
  // A record says how many there were.
  const told = notes.filter((note) => note.step === "rain" && Array.isArray(note.commits));
  return told.map((note) => ({ choice: note.choice, tree: Tree.of(note), note }));
}

/** Takes in what was heard since the last time. `heard`: a Map of choice → Tree; `from`: how many notes it knows. */
export function hear(heard, notes, from) {
  for (const note of notes.slice(from)) {
    if (note.step !== "rain" || !(note.search || note.commit)) continue;
    if (!heard.has(note.choice)) heard.set(note.choice, new Tree());
    const tree = heard.get(note.choice);
    if (note.search) tree.search(note.search);
    else tree.commit(note.commit);
  }
  return notes.length;
}
