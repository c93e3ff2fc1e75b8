// The comparison player: the result leads, the input follows it by time; frames are stepped one by one.
"use strict";

(() => {
  let current = null; // the player last drawn or touched: the keyboard moves this one

  const start = (root) => {
    const after = root.querySelector(".vd-after");
    const before = root.querySelector(".vd-before");
    const seek = root.querySelector(".vd-seek");
    const split = root.querySelector(".vd-split");
    const play = root.querySelector(".vd-play");
    const fps = Number(root.dataset.fps);
    const frames = Number(root.dataset.frames);
    const made = new Set(root.dataset.new.split(",").filter(Boolean).map(Number));
    const [offset, pace] = [Number(root.dataset.offset), Number(root.dataset.pace)];
    for (const film of [after, before]) if (film) film.muted = true; // the attribute alone does not allow autoplay
    after.loop = true;

    const place = () => Math.min(frames - 1, Math.max(0, Math.floor(after.currentTime * fps + 1e-3)));

    const follow = () => {
      if (!before) return;
      const time = offset + after.currentTime * pace;
      const absent = time < -1e-3 || (before.duration > 0 && time >= before.duration);
      before.closest("figure").classList.toggle("vd-absent", absent);
      const wanted = Math.min(Math.max(time, 0), Math.max(0, (before.duration || 0) - 0.5 / fps));
      // While it plays a difference of a frame is corrected, not every rounding of a clock.
      if (Math.abs(before.currentTime - wanted) > (after.paused ? 0.01 : 1 / fps)) before.currentTime = wanted;
      before.playbackRate = Math.min(Math.max(pace, 0.1), 8);
      if (after.paused || absent) before.pause();
      else if (before.paused) before.play().catch(() => {});
    };

    const show = () => {
      if (!root.contains(after)) return; // turned into something else
      const now = place();
      seek.value = now;
      const word = made.has(now) ? ` · ${videodiff.word("player.new")}` : "";
      root.querySelector(".vd-place").textContent = `${now + 1} / ${frames}${word}`;
      root.classList.toggle("vd-new", made.has(now));
      play.textContent = after.paused ? "▶" : "❚❚";
      follow();
    };

    const go = (frame) => {
      after.pause();
      after.currentTime = (((frame % frames) + frames) % frames + 0.5) / fps;
    };

    const mode = (name) => {
      root.dataset.mode = name;
      root.querySelectorAll(".vd-mode").forEach((one) => one.setAttribute("aria-pressed", one.dataset.mode === name));
    };

    root.step = (by) => go(place() + by);
    root.toggle = () => (after.paused ? after.play().catch(() => {}) : after.pause());
    root.querySelector(".vd-back").addEventListener("click", () => root.step(-1));
    root.querySelector(".vd-forward").addEventListener("click", () => root.step(1));
    play.addEventListener("click", root.toggle);
    seek.addEventListener("input", () => go(Number(seek.value)));
    split.addEventListener("input", () => root.style.setProperty("--vd-split", `${split.value}%`));
    root.querySelectorAll(".vd-mode").forEach((one) => one.addEventListener("click", () => mode(one.dataset.mode)));
    root.addEventListener("pointerdown", () => (current = root));
    for (const event of ["seeked", "play", "pause", "loadeddata", "timeupdate"]) after.addEventListener(event, show);
    before?.addEventListener("loadeddata", show);

    const marks = root.querySelector(".vd-marks");
    for (const frame of made) {
      const mark = document.createElement("i");
      mark.style.left = `${(100 * frame) / frames}%`;
      mark.style.width = `${100 / frames}%`;
      marks.append(mark);
    }

    const tick = () => {
      if (!root.isConnected || !root.contains(after)) return;
      if (!after.paused) show();
      requestAnimationFrame(tick);
    };
    current = root;
    show();
    after.play().catch(() => {});
    requestAnimationFrame(tick);
  };

  videodiff.widget(".vd-player", start);
  videodiff.widget(".vd-variant", (cell) => {
    const film = cell.querySelector("video");
    film.muted = true; // as above
    film.play().catch(() => {});
  });
  const here = () => (current?.isConnected && current.offsetParent !== null ? current : null);
  videodiff.on("step", (by) => here()?.step(by));
  videodiff.on("play", () => here()?.toggle());
})();
