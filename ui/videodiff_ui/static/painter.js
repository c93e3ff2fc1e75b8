// The painter of masks: a pen paints discs on the mask's own pixels; after each stroke the mask goes to Python.
// Gradio may put a new painter on the page or change the one that is there; `data-drawn` says that it is to be read.
"use strict";

(() => {
  const INK = [20, 184, 166, 165];
  const tool = { size: null, erases: false }; // stays the same from frame to frame; the size is a diameter in pixels
  const sheets = new WeakMap(); // painter -> {canvas, context, mask: 0 or 1 for each pixel}
  let stroke = null; // {root, pointer, x, y} while the pen is down

  const rootOf = (node) => node?.closest?.(".vd-painter");

  const unpack = (text, mask) => {
    const bytes = atob(text);
    for (let k = 0; k < mask.length; k++) mask[k] = (bytes.charCodeAt(k >> 3) >> (7 - (k & 7))) & 1;
  };

  const pack = (mask) => {
    const bytes = new Uint8Array(Math.ceil(mask.length / 8));
    for (let k = 0; k < mask.length; k++) bytes[k >> 3] |= mask[k] << (7 - (k & 7));
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  };

  const show = ({ canvas, context, mask }) => {
    const image = context.createImageData(canvas.width, canvas.height);
    for (let k = 0; k < mask.length; k++) if (mask[k]) image.data.set(INK, 4 * k);
    context.putImageData(image, 0, 0);
  };

  const showTool = (root) => {
    const brush = root.querySelector(".vd-brush");
    if (tool.size !== null) brush.value = tool.size;
    root.querySelector("output").textContent = brush.value;
    root.querySelector(".vd-eraser").setAttribute("aria-pressed", tool.erases);
  };

  const read = (root) => {
    if (stroke?.root === root) stroke = null;
    const canvas = root.querySelector("canvas");
    const mask = new Uint8Array(canvas.width * canvas.height);
    unpack(root.dataset.mask, mask);
    sheets.set(root, { canvas, context: canvas.getContext("2d"), mask });
    show(sheets.get(root));
    showTool(root);
  };

  const send = (root) => {
    const { canvas, mask } = sheets.get(root);
    const detail = `${root.dataset.place} ${canvas.height}x${canvas.width} ${pack(mask)}`;
    root.dispatchEvent(new CustomEvent("vd-painted", { bubbles: true, detail }));
  };

  // Where the pen is, in pixels of the mask.
  const penAt = (root, event) => {
    const { canvas } = sheets.get(root);
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * canvas.width;
    return { x, y: ((event.clientY - box.top) / box.height) * canvas.height };
  };

  const disc = ({ canvas, mask }, x, y, radius, value) => {
    const [left, top] = [Math.max(0, Math.floor(x - radius)), Math.max(0, Math.floor(y - radius))];
    for (let row = top; row < Math.min(canvas.height, y + radius); row++)
      for (let column = left; column < Math.min(canvas.width, x + radius); column++) {
        const under = Math.floor(x) === column && Math.floor(y) === row; // the finest brush is a pixel
        if (under || Math.hypot(column + 0.5 - x, row + 0.5 - y) <= radius) mask[row * canvas.width + column] = value;
      }
  };

  // Discs along the way from where the pen was, near enough to each other to be a line.
  const paint = (x, y) => {
    const sheet = sheets.get(stroke.root);
    const radius = Number(stroke.root.querySelector(".vd-brush").value) / 2;
    const steps = Math.max(1, Math.ceil(Math.hypot(x - stroke.x, y - stroke.y) / Math.max(0.5, radius / 4)));
    for (let k = 1; k <= steps; k++) {
      const share = k / steps;
      const [px, py] = [stroke.x + share * (x - stroke.x), stroke.y + share * (y - stroke.y)];
      disc(sheet, px, py, radius, tool.erases ? 0 : 1);
    }
    Object.assign(stroke, { x, y });
    show(sheet);
  };

  document.addEventListener("pointerdown", (event) => {
    const root = event.target.matches?.(".vd-painter canvas") ? rootOf(event.target) : null;
    if (!root || stroke || event.button !== 0) return;
    event.target.setPointerCapture(event.pointerId);
    event.preventDefault();
    event.target.focus({ preventScroll: true });
    stroke = { root, pointer: event.pointerId, ...penAt(root, event) };
    paint(stroke.x, stroke.y);
  });

  document.addEventListener("pointermove", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    const { x, y } = penAt(stroke.root, event);
    paint(x, y);
  });

  // A pen that is taken away by the system has painted as well: what is seen is what is kept.
  const end = (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    const { root } = stroke;
    stroke = null;
    send(root);
  };
  document.addEventListener("pointerup", end);
  document.addEventListener("pointercancel", end);

  const erase = (root) => {
    tool.erases = !tool.erases;
    showTool(root);
  };

  document.addEventListener("click", (event) => {
    const root = rootOf(event.target);
    if (!root) return;
    if (event.target.closest(".vd-eraser")) erase(root);
    if (event.target.closest(".vd-clear")) {
      sheets.get(root).mask.fill(0);
      show(sheets.get(root));
      send(root);
    }
  });

  document.addEventListener("input", (event) => {
    if (!event.target.matches?.(".vd-brush")) return;
    tool.size = Number(event.target.value);
    showTool(rootOf(event.target));
  });

  document.addEventListener("keydown", (event) => {
    const root = rootOf(event.target);
    if (!root || event.ctrlKey || event.metaKey || event.altKey) return;
    const brush = root.querySelector(".vd-brush");
    if (event.key === "[" || event.key === "]") {
      brush.value = Number(brush.value) + (event.key === "[" ? -1 : 1); // the slider keeps it within its ends
      tool.size = Number(brush.value);
      showTool(root);
    } else if (event.key.toLowerCase() === "e") {
      erase(root);
    } else {
      return;
    }
    event.preventDefault();
  });

  videodiff.widget(".vd-painter", (root) => {
    read(root);
    new MutationObserver(() => read(root)).observe(root, { attributeFilter: ["data-drawn"] });
  });
})();
