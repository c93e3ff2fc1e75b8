// Tells the page that is looked at that a job has changed. The server is asked for a number, which costs it and the browser
// next to nothing; Gradio hears of it only when the number is another one.
"use strict";

(() => {
  const LOOK_MS = 700;
  const told = new WeakMap(); // pulse -> [version it was told, when]
  let looking = false;

  async function look() {
    const pulse = [...document.querySelectorAll(".vd-pulse [data-every]")].find((element) => element.offsetParent);
    const address = document.querySelector("#vd-header [data-version]")?.dataset.version;
    if (document.hidden || looking || !pulse || !address) return;
    looking = true;
    try {
      const answer = await fetch(address);
      if (!answer.ok) return;
      const [version, now] = [await answer.text(), performance.now()];
      const [last, when] = told.get(pulse) ?? [];
      const every = 1000 * Number(pulse.dataset.every);
      if (version === last && !(every && now - when > every)) return;
      told.set(pulse, [version, now]);
      pulse.dispatchEvent(new CustomEvent("vd-pulse", { bubbles: true }));
    } catch {
      // The server is away; Gradio says so, and the next look may find it.
    } finally {
      looking = false;
    }
  }

  setInterval(look, LOOK_MS);
  document.addEventListener("visibilitychange", look);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[role=tab]")) setTimeout(look, 50); // when its page is shown
  });
})();
