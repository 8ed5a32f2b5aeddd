// State that outlives a view: a value, who reads it, and a hook that draws anew when it changes.
import { useLayoutEffect, useRef, useState } from "./html.js";

/** A value that is watched. `set` takes the next value, or a function of the one before. */
export function store(initial) {
  let value = initial;
  const readers = new Set();
  return {
    get: () => value,
    set(next) {
      const made = typeof next === "function" ? next(value) : next;
      if (Object.is(made, value)) return;
      value = made;
      for (const read of [...readers]) read(value);
    },
    /** Some of its fields. */
    patch(fields) {
      this.set((before) => ({ ...before, ...fields }));
    },
    /** Calls `read` at each change; returns what ends that. */
    watch(read) {
      readers.add(read);
      return () => readers.delete(read);
    },
  };
}

const all = (value) => value;

/** A store's value in a component, or what `pick` takes of it: drawn anew only where that is another. */
export function useStore(source, pick = all) {
  const [, again] = useState(0);
  const taking = useRef(pick);
  taking.current = pick;
  const value = pick(source.get());
  const shown = useRef(value);
  shown.current = value;
  useLayoutEffect(() => {
    const read = () => {
      if (!Object.is(taking.current(source.get()), shown.current)) again((n) => n + 1);
    };
    read(); // it may have changed since it was drawn
    return source.watch(read);
  }, [source]);
  return value;
}

/** A store whose value stays in `place` (localStorage or sessionStorage) under `heedful.NAME`, where there is one. */
export function kept(name, initial, place) {
  const key = `heedful.${name}`;
  const made = store(initial);
  try {
    const before = place.getItem(key);
    if (before !== null) made.set(JSON.parse(before));
  } catch {
    // What can't be read is as good as nothing.
  }
  made.watch((value) => {
    try {
      if (value === null || value === undefined) place.removeItem(key);
      else place.setItem(key, JSON.stringify(value));
    } catch {
      // Full or forbidden: it is kept until the page is closed.
    }
  });
  return made;
}

const nowhere = { getItem: () => null, setItem() {}, removeItem() {}, clear() {} };

/** `localStorage` and `sessionStorage`, or nothing where the browser forbids them. */
export const local = storage("localStorage");
export const session = storage("sessionStorage");

function storage(name) {
  try {
    return globalThis[name] ?? nowhere;
  } catch {
    return nowhere;
  }
}

/** All that this tab keeps; of what other tabs keep, nothing. */
export const forgetSession = () => session.clear();
