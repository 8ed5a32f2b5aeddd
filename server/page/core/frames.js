// Many small changes, drawn together.
const APART = 30; // milliseconds: 33 times a second are as good to the eye as 60, at half the work

/** A function that has `f` called at the next frame, once, however often it is called. Hidden tabs have no frames: there
 * it is every 100 ms. */
export function perFrame(f) {
  let waiting = false;
  let last = 0;
  const run = (now) => {
    if (!document.hidden && now - last < APART) return requestAnimationFrame(run);
    last = now;
    waiting = false;
    f();
  };
  return () => {
    if (waiting) return;
    waiting = true;
    if (document.hidden) setTimeout(() => run(performance.now()), 100);
    else requestAnimationFrame(run);
  };
}
