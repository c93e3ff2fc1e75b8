// What the page does without asking the server: words, theme, language, keys, and the ground widgets stand on.
// Widgets (player.js, timeline.js) use `videodiff.widget`, `videodiff.word` and `videodiff.on`.
"use strict";

const videodiff = (window.videodiff = {});

// --- Words -----------------------------------------------------------------------------------------------------------

const LANGUAGES = ["en", "ko"];
let words = {};
let patterns = []; // of the library's messages, with what they are in the reader's language
const known = new Map(); // messages that were looked up before
let tabs = {}; // the key of a page's tab by what it says, in any language

const filled = (text, values) =>
  text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

// The text of a key in the reader's language, `{name}` replaced from `values`; a `{kind}` of request by its name.
videodiff.word = (key, values = {}) =>
  filled(words[key] ?? key, { ...values, ...(values.kind && { kind: words[`kind.${values.kind}`] ?? values.kind }) });

// A message of the library, which is English with the command's options in it, in the reader's words. One that no
// pattern knows stays English.
videodiff.message = (text) => {
  if (!known.has(text)) known.set(text, plain(translated(text)));
  return known.get(text);
};

const plain = (text) =>
  text.replace(/--([a-z][a-z-]*)/g, (option, name) => {
    const label = words[`field.${name.replaceAll("-", "_")}`];
    return label ? `“${label}”` : option;
  });

// What stands for {message} or {what} in a pattern has a name on the page or is a message, what stands for {page} is a
// page; what stands for any other name stays as it is.
function translated(text) {
  for (const { pattern, said } of patterns) {
    const found = text.match(pattern);
    if (!found) continue;
    const values = { ...found.groups };
    for (const name of ["what", "message"]) {
      if (!(name in values)) continue;
      const keys = ["field", "kind", "choice.operator"].map((group) => `${group}.${values[name]}`);
      values[name] = words[keys.find((key) => key in words)] ?? translated(values[name]);
    }
    if ("page" in values) values.page = words[`tab_${values.page}`] ?? values.page;
    return filled(said, values);
  }
  return text;
}

// Patterns of a file of locales/messages, those with most text of their own first.
function patternsOf(messages) {
  const literal = (part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const compiled = Object.entries(messages).map(([english, said]) => {
    const parts = english.split(/\{(\w+)\}/); // text, name, text, name, ..., text
    const pattern = parts.map((part, k) => (k % 2 ? `(?<${part}>[^]*?)` : literal(part))).join("");
    const length = parts.filter((_, k) => k % 2 === 0).join("").length;
    return { pattern: new RegExp(`^${pattern}$`), said, length };
  });
  return compiled.sort((a, b) => b.length - a.length);
}

videodiff.language = () => {
  const kept = localStorage.getItem("videodiff-language");
  return LANGUAGES.includes(kept) ? kept : navigator.language.startsWith("ko") ? "ko" : "en";
};

// Elements made by html.word() and html.message(), Gradio's toasts, and titles by data-title: English until here.
function translate(root) {
  for (const element of root.querySelectorAll("[data-word]")) {
    const text = videodiff.word(element.dataset.word, JSON.parse(element.dataset.values || "{}"));
    if (element.textContent !== text) element.textContent = text;
  }
  for (const toast of root.querySelectorAll("[data-testid=toast-text]:not([data-message])"))
    toast.dataset.message = toast.textContent;
  for (const element of root.querySelectorAll("[data-message]")) {
    const text = videodiff.message(element.dataset.message);
    if (element.textContent !== text) element.textContent = text;
  }
  for (const { firstChild } of root.querySelectorAll(".toast-title.error")) {
    const text = `${videodiff.word("toast.error")} `; // beside it Gradio may count them
    if (firstChild.data !== text) firstChild.data = text;
  }
  for (const element of root.querySelectorAll("[data-title]")) {
    const text = videodiff.word(element.dataset.title);
    if (element.title !== text) {
      element.title = text;
      element.setAttribute("aria-label", text);
    }
  }
}

// Gradio follows a change of language only in the tab that is open; here all do, those behind the dots as well. The text
// is changed in its place: where tabs move behind the dots, Gradio turns it into the next one's.
function translateTabs() {
  for (const button of document.querySelectorAll("#vd-tabs .tab-wrapper button, #vd-tabs .overflow-dropdown button"))
    for (const text of button.childNodes) {
      const said = text.data?.trim();
      if (said in tabs && words[tabs[said]] !== said) text.data = words[tabs[said]];
    }
}

// --- Widgets ---------------------------------------------------------------------------------------------------------

const widgets = [];

// Calls `start(element)` once for every element that matches, now or whenever Gradio puts it on the page. Gradio turns an
// element into the next one in place, listeners and all; one whose data-key has changed is therefore made anew.
videodiff.widget = (selector, start) => {
  widgets.push({ selector, start, seen: new WeakMap() });
  wake();
};

function wake() {
  for (const { selector, start, seen } of widgets)
    for (const element of document.querySelectorAll(selector)) {
      const key = element.dataset.key ?? "";
      if (seen.get(element) === key) continue;
      const fresh = seen.has(element) ? element.cloneNode(true) : element;
      if (fresh !== element) element.replaceWith(fresh);
      seen.set(fresh, key);
      start(fresh);
    }
}

// --- Theme and language ----------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const kept = localStorage.getItem("videodiff-theme");
  document.body.classList.toggle("dark", kept ? kept === "dark" : dark.matches);
}

function switchTheme() {
  localStorage.setItem("videodiff-theme", document.body.classList.contains("dark") ? "light" : "dark");
  showTheme();
}

let spoken = navigator.language; // by Gradio's own labels

async function showLanguage() {
  const language = videodiff.language();
  const read = async (name) => (await fetch(`videodiff/words/${name}.json`)).json();
  const all = Object.fromEntries(await Promise.all(LANGUAGES.map(async (name) => [name, await read(name)])));
  const messages = language === "en" ? {} : await read(`messages/${language}`);
  words = all[language];
  patterns = patternsOf(messages);
  known.clear();
  for (const texts of Object.values(all))
    for (const [key, text] of Object.entries(texts)) if (key.startsWith("tab_")) tabs[text] = key;
  document.documentElement.lang = language;
  translate(document);
  translateTabs();
  // Gradio's own labels follow the browser's language; the module that knows better is already on the page.
  if (!spoken.startsWith(language)) {
    spoken = language;
    const core = performance.getEntriesByType("resource").find(({ name }) => /\/assets\/core-[^/]*\.js$/.test(name));
    (await import(core.name)).changeLocale(language);
  }
}

function switchLanguage() {
  localStorage.setItem("videodiff-language", videodiff.language() === "ko" ? "en" : "ko");
  showLanguage();
}

videodiff.widget("#vd-theme", (button) => button.addEventListener("click", switchTheme));
videodiff.widget("#vd-language", (button) => button.addEventListener("click", switchLanguage));
dark.addEventListener("change", showTheme);

// --- Keys ------------------------------------------------------------------------------------------------------------

const listeners = { play: [], step: [] };

// `videodiff.on("play", f)`: the space bar. `videodiff.on("step", f)`: f(-1 or 1) for the arrows, f(-10 or 10) with Shift.
videodiff.on = (what, listener) => listeners[what].push(listener);

// Where keys are letters; and what uses the space bar or the arrows itself, which the app then leaves to it.
const PRESSED = ["checkbox", "radio", "range", "button", "submit", "reset", "file"].map((type) => `[type=${type}]`);
const typing = (element) =>
  element.closest?.(`input:not(${PRESSED}), textarea, select, [contenteditable]:not([contenteditable=false])`);
const pressable = (element) => element.closest?.("button, a, summary, label, [role=tab], input:not([type=range])");
const movable = (element) => element.closest?.(".vd-cell, [role=tab], [role=slider], [type=radio], [type=range]");

// The button of the open page whose id ends so: vd-run on Make, vd-edit-run on Edit.
const visible = (element) => element.offsetParent !== null;
function press(ending) {
  const button = [...document.querySelectorAll(`button[id^="vd-"][id$="${ending}"]`)].find(visible);
  if (button && !button.disabled) button.click();
  return Boolean(button);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (event.repeat || press("run")) event.preventDefault(); // held down it is one run
  } else if (event.key === "Escape") {
    if (!typing(event.target)) press("stop"); // there it closes a list, or leaves the field
  } else if (typing(event.target) || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (event.key === " " && !pressable(event.target) && listeners.play.length) {
    event.preventDefault();
    listeners.play.forEach((listener) => listener());
  } else if (["ArrowLeft", "ArrowRight"].includes(event.key) && !movable(event.target) && listeners.step.length) {
    event.preventDefault();
    const step = (event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 1);
    listeners.step.forEach((listener) => listener(step));
  }
});

// --- Start -----------------------------------------------------------------------------------------------------------

let waiting = false;
new MutationObserver(() => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    wake();
    translate(document);
    translateTabs();
  });
}).observe(document.documentElement, {
  childList: true,
  subtree: true,
  characterData: true, // Gradio turns a text into the next one in place
  attributes: true,
  attributeFilter: ["data-key"],
});

showTheme();
showLanguage();
wake();
