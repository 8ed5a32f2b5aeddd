// What every other file draws with: Preact, its hooks, and `html`, which writes elements as a template.
// Text goes in as `${text}` and is escaped by Preact; nothing here sets HTML.
import { Fragment, createContext, h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export {
  useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "../vendor/hooks.js";
export { Fragment, createContext, h, render };
export const html = htm.bind(h);

/** Class names in a row; what is false is left out. */
export const classes = (...names) => names.filter(Boolean).join(" ");
