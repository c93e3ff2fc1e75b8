// The strip of frames: click, drag or keys mark frames as wanted; the marks go to Python as JSON.
// Cells are found by their classes each time, because Gradio may draw the strip anew at any moment.
"use strict";

(() => {
  let drag = null; // {strip, from, on}: the strip, the cell where the drag began, and whether it marks or unmarks

  const stripOf = (node) => node?.closest?.(".vd-timeline:not(.vd-locked)");
  const cellsOf = (strip) => [...strip.querySelectorAll(".vd-cell")];

  const set = (cell, on) => {
    cell.classList.toggle("vd-wanted", on);
    cell.setAttribute("aria-pressed", on);
  };

  const send = (strip) => {
    const marks = JSON.parse(strip.dataset.marks);
    const wanted = cellsOf(strip)
      .filter((cell) => cell.classList.contains("vd-wanted"))
      .flatMap((cell) => {
        const first = Number(cell.dataset.first);
        return Array.from({ length: Number(cell.dataset.stop) - first }, (_, k) => first + k);
      });
    // Marking by hand leaves the presets: what is wanted then is what is marked.
    const next = { frames: marks.frames, wanted, before: 0, after: 0, factor: 1, slow: false, loop: false };
    strip.dataset.marks = JSON.stringify(next);
    strip.querySelectorAll(".vd-slot, .vd-between").forEach((slot) => slot.remove());
    strip.dispatchEvent(new CustomEvent("vd-marked", { bubbles: true, detail: strip.dataset.marks }));
  };

  const paint = (strip, from, to, on, before) => {
    const cells = cellsOf(strip);
    const [low, high] = [cells.indexOf(from), cells.indexOf(to)].sort((a, b) => a - b);
    cells.forEach((cell, k) => set(cell, k >= low && k <= high ? on : before[k]));
  };

  document.addEventListener("pointerdown", (event) => {
    const cell = event.target.closest?.(".vd-cell");
    const strip = stripOf(cell);
    if (!strip || event.button !== 0) return;
    const before = cellsOf(strip).map((one) => one.classList.contains("vd-wanted"));
    drag = { strip, from: cell, on: !cell.classList.contains("vd-wanted"), before };
    cell.releasePointerCapture?.(event.pointerId);
    paint(strip, cell, cell, drag.on, before);
    event.preventDefault();
    cell.focus({ preventScroll: true });
  });

  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest?.(".vd-cell");
    if (cell && stripOf(cell) === drag.strip) paint(drag.strip, drag.from, cell, drag.on, drag.before);
  });

  document.addEventListener("pointerup", () => {
    if (drag) send(drag.strip);
    drag = null;
  });

  document.addEventListener("pointercancel", () => {
    if (drag) cellsOf(drag.strip).forEach((cell, k) => set(cell, drag.before[k]));
    drag = null;
  });

  document.addEventListener("keydown", (event) => {
    const cell = event.target.closest?.(".vd-cell");
    const strip = stripOf(cell);
    if (!strip) return;
    const cells = cellsOf(strip);
    const place = cells.indexOf(cell);
    const steps = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: cells.length - 1 };
    if (event.key in steps) {
      const next = cells[Math.min(Math.max(steps[event.key], 0), cells.length - 1)];
      if (event.shiftKey) {
        set(next, cell.classList.contains("vd-wanted"));
        send(strip);
      }
      cells.forEach((one) => (one.tabIndex = one === next ? 0 : -1));
      next.focus();
    } else if (event.key === " " || event.key === "Enter") {
      set(cell, !cell.classList.contains("vd-wanted"));
      send(strip);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
})();
