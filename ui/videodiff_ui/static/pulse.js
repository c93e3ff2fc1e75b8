// Tells the page that is looked at that a job has changed. The server is asked for a number, which costs it and the browser
// next to nothing; Gradio hears of it only when the number is another one. When the server no longer answers, or another
// one answers in its place, a line above the page says so.
"use strict";

(() => {
  const LOOK_MS = 700;
  const RARE_MS = 15_000; // a server that is gone is asked less and less often: the browser notes each failure
  const PATIENCE_MS = 10_000; // a busy machine may take seconds
  const told = new WeakMap(); // pulse -> [version it was told, when]
  let looking = false;
  let misses = 0; // looks in a row that found nobody, or another server
  let next = 0; // the timer of the next look

  // Which server answers: "" the one that made this page, "anew" one that was started since, "away" none.
  function show(state) {
    for (const line of document.querySelectorAll(".vd-lost [data-lost]")) line.hidden = line.dataset.lost !== state;
  }

  async function look() {
    if (looking) return; // it comes again by itself
    clearTimeout(next);
    const address = document.querySelector("#vd-header [data-version]")?.dataset.version;
    if (!document.hidden && address) {
      looking = true;
      await ask(address);
      looking = false;
    }
    next = setTimeout(look, Math.min(LOOK_MS * 2 ** misses, RARE_MS));
  }

  async function ask(address) {
    let answer, version;
    try {
      answer = await fetch(address, { signal: AbortSignal.timeout(PATIENCE_MS) });
      version = await answer.text();
    } catch {
      answer = null; // the server is away, and a later look may find it
    }
    if (answer?.ok) {
      misses = 0;
      show("");
      tell(version);
      return;
    }
    misses += 1;
    if (answer?.status === 404) show("anew"); // the secret in the address was the former server's
    else if (misses > 1) show("away");
  }

  function tell(version) {
    const pulse = [...document.querySelectorAll(".vd-pulse [data-every]")].find((element) => element.offsetParent);
    if (!pulse) return;
    const now = performance.now();
    const [last, when] = told.get(pulse) ?? [];
    const every = 1000 * Number(pulse.dataset.every);
    if (version === last && !(every && now - when > every)) return;
    told.set(pulse, [version, now]);
    pulse.dispatchEvent(new CustomEvent("vd-pulse", { bubbles: true }));
  }

  look();
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look); // as one comes back from the terminal
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[role=tab]")) setTimeout(look, 50); // when its page is shown
  });
  videodiff.widget("#vd-load", (button) => button.addEventListener("click", () => location.reload()));
})();
