// The part of a clip that is used: a rectangle on a frame, and two handles over the length of the clip. What is chosen
// goes to Python once, when the pointer is lifted or the keys have come to rest; so does the wish to see another frame.
// Gradio may put a new widget on the page or change the one that is there; `data-drawn` says that it is to be read.
"use strict";

(() => {
  const LEAST = 8; // pixels; a smaller rectangle can be typed
  const REST = 300; // ms after which keys have come to rest
  const PATIENCE = 30000; // ms after which an answer of Python is not waited for any more
  const states = new WeakMap(); // widget -> {root, W, H, times, aspect, first, last, x, y, w, h, said, look, looks, timer}
  let drag = null; // {state, pointer, grip, from, before} while the pointer is down

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const find = (state, name) => state.root.querySelector(name);
  const crop = ({ w, h, x, y }) => `${w}x${h}+${x}+${y}`;

  // Only the text inside is changed, not the elements: those are watched by the whole page.
  const say = (element, text) => {
    if (element.firstChild?.nodeType === Node.TEXT_NODE) element.firstChild.data = text;
    else element.textContent = text;
  };

  const seconds = (ms) => (ms / 1000).toFixed(2);

  // --- what is seen

  const showCrop = (state) => {
    const { x, y, w, h, W, H, aspect } = state;
    const box = find(state, ".vd-crop");
    const share = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(box.style, { left: share(x, W), top: share(y, H), width: share(w, W), height: share(h, H) });
    box.classList.toggle("vd-all", w === W && h === H);
    say(find(state, ".vd-rectangle"), crop(state));
    for (const one of state.root.querySelectorAll(".vd-aspect"))
      one.setAttribute("aria-pressed", one.dataset.aspect === aspect);
  };

  const showSpan = (state) => {
    const { first, last, times } = state;
    const most = times.length - 2;
    if (most < 1) return;
    for (const [name, frame] of Object.entries({ first, last })) {
      const handle = find(state, `.vd-${name}`);
      handle.value = frame;
      handle.setAttribute("aria-valuetext", videodiff.word("part.frame", { frame, time: seconds(times[frame]) }));
    }
    find(state, ".vd-first").style.zIndex = first > most / 2 ? 2 : 1; // where they meet, the one that can go on is above
    const line = find(state, ".vd-span");
    line.style.setProperty("--vd-from", first / most);
    line.style.setProperty("--vd-to", last / most);
    const text = find(state, ".vd-says [data-word]");
    const values = { first, last, total: most + 1, start: seconds(times[first]), end: seconds(times[last + 1]) };
    text.dataset.values = JSON.stringify(values);
    say(text, videodiff.word("part.span", values));
  };

  const read = (root) => {
    if (drag?.state.root === root) return; // what is being done counts
    const before = states.get(root);
    clearTimeout(before?.timer);
    const [W, H] = root.dataset.size.split("x").map(Number);
    const [first, last, w, h, x, y] = root.dataset.part.match(/\d+/g).map(Number);
    const times = root.dataset.times.split(",").map(Number);
    const aspect = before?.W === W && before.H === H ? before.aspect : "free";
    const state = { root, W, H, times, aspect, first, last, w, h, x, y, said: root.dataset.part, looks: 0 };
    states.set(root, state);
    showCrop(state);
    showSpan(state);
  };

  // --- what is said

  const tell = (state) => {
    clearTimeout(state.timer);
    const said = `${state.first} ${state.last} ${crop(state)}`;
    const changed = state.said !== said;
    const tells = (name, detail) => state.root.dispatchEvent(new CustomEvent(name, { detail, bubbles: true }));
    state.said = said;
    if (changed) tells("vd-parted", said);
    if (state.look === undefined || Date.now() < state.looks + PATIENCE) return; // asked for when the last one is there
    state.looks = Date.now();
    tells("vd-look", String(state.look));
    delete state.look;
  };

  const tellAtRest = (state) => {
    clearTimeout(state.timer);
    state.timer = setTimeout(() => (drag ? tellAtRest : tell)(state), REST);
  };

  // A run is to have what was chosen just before it: it waits until Python has answered. What is shown is in a hidden
  // textbox beside the widget.
  const settled = ({ root, said }) =>
    root.closest(".vd-part-fold").querySelector(".vd-part-shown textarea").value === said;

  const run = (state, button, end) => {
    if (!settled(state) && Date.now() < end) return setTimeout(() => run(state, button, end), 50);
    button.click();
    state.waits = false;
  };

  document.addEventListener(
    "click",
    (event) => {
      const button = event.target.closest?.('button[id$="-run"]');
      const root = button && [...document.querySelectorAll(".vd-part")].find((one) => one.offsetParent !== null);
      const state = states.get(root);
      if (!state || state.waits) return;
      tell(state);
      if (settled(state)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      state.waits = true;
      run(state, button, Date.now() + PATIENCE);
    },
    true,
  );

  // --- the rectangle

  // Width over height, in pixels of the clip, that the rectangle is held to; 0 where it is free.
  const ratioOf = (state) => Number(find(state, `.vd-aspect[data-aspect="${state.aspect}"]`).dataset.ratio);

  // w x h pixels from (ax, ay), which stays, towards dx and dy: 1 right or down, -1 left or up, 0 both ways. It is held
  // to the aspect ratio and kept inside the picture.
  const span = (state, ax, ay, dx, dy, w, h) => {
    const { W, H } = state;
    const [wide, high] = [dx > 0 ? W - ax : dx < 0 ? ax : W, dy > 0 ? H - ay : dy < 0 ? ay : H];
    [w, h] = [clamp(w, Math.min(LEAST, wide), wide), clamp(h, Math.min(LEAST, high), high)];
    const ratio = ratioOf(state);
    if (ratio) {
      if (dy === 0 || (dx !== 0 && w / h > ratio)) h = w / ratio;
      else w = h * ratio;
      const shrink = Math.min(1, wide / w, high / h);
      [w, h] = [w * shrink, h * shrink];
    }
    [w, h] = [Math.max(1, Math.round(w)), Math.max(1, Math.round(h))];
    const x = dx > 0 ? ax : dx < 0 ? ax - w : clamp(Math.round(ax - w / 2), 0, W - w);
    const y = dy > 0 ? ay : dy < 0 ? ay - h : clamp(Math.round(ay - h / 2), 0, H - h);
    Object.assign(state, { x, y, w, h });
    showCrop(state);
  };

  const move = (state, x, y) => {
    Object.assign(state, { x: clamp(x, 0, state.W - state.w), y: clamp(y, 0, state.H - state.h) });
    showCrop(state);
  };

  // The right and lower edges go to where they are asked to; with an aspect ratio the other pair follows.
  const grow = (state, right, down) => {
    const { x, y, w, h } = state;
    const held = ratioOf(state);
    if (right && held) span(state, x, y, 1, 1, w + right, (h * (w + right)) / w);
    else if (down && held) span(state, x, y, 1, 1, (w * (h + down)) / h, h + down);
    else span(state, x, y, 1, 1, w + right, h + down);
  };

  // Held to a ratio, the rectangle keeps its middle and its area as far as there is room.
  const hold = (state, aspect) => {
    state.aspect = aspect;
    const { x, y, w, h, W, H } = state;
    const ratio = ratioOf(state);
    if (!ratio) return showCrop(state);
    const [wide, high] = [Math.sqrt(w * h * ratio), Math.sqrt((w * h) / ratio)];
    const shrink = Math.min(1, W / wide, H / high);
    span(state, x + w / 2, y + h / 2, 0, 0, wide * shrink, high * shrink);
  };

  const wholePicture = (state) => {
    Object.assign(state, { x: 0, y: 0, w: state.W, h: state.H, aspect: "free" });
    showCrop(state);
  };

  // Where the pointer is, in pixels of the clip, and how many of them a finger or a mouse may be off.
  const place = (state, event) => {
    const box = find(state, ".vd-sheet").getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    const reach = event.pointerType === "mouse" ? 9 : 20;
    return { x: x * state.W, y: y * state.H, rx: (reach / box.width) * state.W, ry: (reach / box.height) * state.H };
  };

  // What the pointer takes hold of: an edge or a corner {dx, dy}, the whole {dx: 0, dy: 0}, or nothing.
  const grip = ({ x, y, w, h, W, H }, at) => {
    const side = (p, from, length, reach) => {
      const inside = Math.min(reach, length / 3); // of a small rectangle a third is left to move it by
      if (p < from - reach || p > from + length + reach) return null;
      return p < from + inside ? -1 : p > from + length - inside ? 1 : 0;
    };
    const [dx, dy] = [side(at.x, x, w, at.rx), side(at.y, y, h, at.ry)];
    if (dx === null || dy === null || (!dx && !dy && w === W && h === H)) return null; // the whole cannot be moved
    return { dx, dy };
  };

  const cursors = { "-1,-1": "nwse", "1,1": "nwse", "-1,1": "nesw", "1,-1": "nesw", "-1,0": "ew", "1,0": "ew" };
  const cursor = (held) => {
    if (!held) return "crosshair";
    return held.dx || held.dy ? `${cursors[`${held.dx},${held.dy}`] ?? "ns"}-resize` : "move";
  };

  const drawTo = (at) => {
    const { state, grip: held, from, before } = drag;
    if (!held) {
      // A new one, from where the pointer went down.
      const [ax, ay] = [clamp(Math.round(from.x), 0, state.W), clamp(Math.round(from.y), 0, state.H)];
      const towards = (to, from, most) => (from === most || (from > 0 && to < from) ? -1 : 1);
      const [dx, dy] = [towards(at.x, ax, state.W), towards(at.y, ay, state.H)];
      span(state, ax, ay, dx, dy, Math.abs(at.x - ax), Math.abs(at.y - ay));
    } else if (!held.dx && !held.dy) {
      move(state, Math.round(before.x + at.x - from.x), Math.round(before.y + at.y - from.y));
    } else {
      const { x, y, w, h } = before;
      const ax = held.dx > 0 ? x : held.dx < 0 ? x + w : x + w / 2;
      const ay = held.dy > 0 ? y : held.dy < 0 ? y + h : y + h / 2;
      span(state, ax, ay, held.dx, held.dy, w + held.dx * (at.x - from.x), h + held.dy * (at.y - from.y));
    }
  };

  const pointers = (root) => {
    const paper = root.querySelector(".vd-sheet");
    const mine = (event) => drag?.state.root === root && drag.pointer === event.pointerId;

    paper.addEventListener("pointerdown", (event) => {
      if (drag || event.button !== 0) return;
      const state = states.get(root);
      const from = place(state, event);
      const { x, y, w, h } = state;
      clearTimeout(state.timer);
      drag = { state, pointer: event.pointerId, grip: grip(state, from), from, before: { x, y, w, h } };
      paper.setPointerCapture(event.pointerId);
      event.preventDefault();
      find(state, ".vd-crop").focus({ preventScroll: true });
    });

    paper.addEventListener("pointermove", (event) => {
      if (!drag) paper.style.cursor = cursor(grip(states.get(root), place(states.get(root), event)));
      if (!mine(event)) return;
      const at = place(drag.state, event);
      drag.far ||= Math.abs(at.x - drag.from.x) > at.rx / 3 || Math.abs(at.y - drag.from.y) > at.ry / 3;
      if (drag.far) drawTo(at); // a mere click changes nothing
    });

    const end = (event) => {
      if (!mine(event)) return;
      const { state, before } = drag;
      drag = null;
      if (event.type === "pointercancel") Object.assign(state, before);
      showCrop(state);
      showSpan(state);
      tell(state);
    };
    paper.addEventListener("pointerup", end);
    paper.addEventListener("pointercancel", end);
  };

  // --- keys, buttons and handles

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const keys = (root) => {
    root.addEventListener("keydown", (event) => {
      const state = states.get(root);
      const arrow = ARROWS[event.key];
      if (!arrow || event.ctrlKey || event.metaKey) return;
      const step = event.shiftKey ? 10 : 1;
      if (event.target.matches(".vd-crop")) {
        const [right, down] = arrow.map((one) => one * step);
        if (event.altKey) grow(state, right, down);
        else move(state, state.x + right, state.y + down);
      } else if (event.target.matches(".vd-span input")) {
        slide(state, event.target, Number(event.target.value) + (arrow[0] - arrow[1]) * step);
      } else {
        return;
      }
      tellAtRest(state);
      event.preventDefault();
      event.stopPropagation();
    });
    root.addEventListener("focusout", () => {
      if (states.get(root).timer && !drag) tell(states.get(root));
    });
  };

  // A handle does not pass the other one.
  const slide = (state, handle, frame) => {
    const most = state.times.length - 2;
    if (handle.matches(".vd-first")) state.first = state.look = clamp(frame, 0, state.last);
    else state.last = state.look = clamp(frame, state.first, most);
    showSpan(state);
  };

  const choices = (root) => {
    root.addEventListener("click", (event) => {
      const state = states.get(root);
      const button = event.target.closest("button");
      if (!button) return;
      if (button.matches(".vd-aspect")) hold(state, button.dataset.aspect);
      if (button.matches(".vd-whole-picture")) wholePicture(state);
      if (button.matches(".vd-whole-clip")) {
        Object.assign(state, { first: 0, last: state.times.length - 2 });
        showSpan(state);
      }
      tell(state);
    });
    root.addEventListener("input", (event) => {
      if (event.target.matches(".vd-span input")) slide(states.get(root), event.target, Number(event.target.value));
    });
    root.addEventListener("change", (event) => {
      if (event.target.matches(".vd-span input")) tellAtRest(states.get(root));
    });
  };

  videodiff.widget(".vd-part", (root) => {
    read(root);
    pointers(root);
    keys(root);
    choices(root);
    new MutationObserver(() => read(root)).observe(root, { attributeFilter: ["data-drawn"] });
  });

  // A frame that was asked for.
  videodiff.widget(".vd-look", (frame) => {
    const show = () => {
      const root = frame.closest(".vd-part-fold")?.querySelector(".vd-part");
      const state = states.get(root);
      if (!state) return;
      root.querySelector("img").src = frame.src;
      state.looks = 0;
      if (state.look !== undefined) tellAtRest(state);
    };
    show();
    new MutationObserver(show).observe(frame, { attributeFilter: ["data-drawn"] });
  });
})();
