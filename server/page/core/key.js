// The key: in this tab only, never in an address; and the question for one, which everything that needs it waits for.
import { forgetSession, kept, session, store } from "./store.js";

export const key = kept("key", null, session);

/** The open question: `{message, answer}`, or null. The shell draws it. */
export const question = store(null);
let asking = null;

/** Asks for a key; resolves to whether there is a new one. Everyone who asks meanwhile gets the same answer. */
export function wanted(message) {
  asking ??= new Promise((resolve) => {
    question.set({
      message,
      answer(given) {
        if (given) key.set(given);
        question.set(null);
        asking = null;
        resolve(Boolean(given));
      },
    });
  });
  return asking;
}

/** Leaves nothing in this tab of the key, nor of what was read and asked with it. */
export function forgetTab() {
  forgetSession();
  location.reload();
}
