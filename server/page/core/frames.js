// Many small changes, drawn once a frame.

/** `later(f)` calls `f` at the next frame, once, however often it is asked; hidden tabs, which have none, after 100 ms. */
export function perFrame(f) {
  let waiting = false;
  const run = () => {
    waiting = false;
    f();
  };
  return () => {
    if (waiting) return;
    waiting = true;
    if (document.hidden) setTimeout(run, 100);
    else requestAnimationFrame(run);
  };
}
