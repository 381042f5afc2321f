// Keys. Those of every page are here; `data-key` gives a button, link or option of a page one; what needs more is onKey.
const own = new Map();
let going = false;

export function onKey(key, run) { own.set(key, run); }

function typing(target) { return target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea, [contenteditable]"); }

// The newest that can be used: of two toasts, the one that came last.
function keyed(key) {
  const found = document.querySelectorAll(`[data-key="${CSS.escape(key)}"]:not(:disabled)`);
  return [...found].findLast((element) => !element.closest("dialog:not([open]), [hidden]"));
}

function press(element) {
  if (element.matches("select, textarea, input:not([type=checkbox], [type=radio])")) { element.focus(); return; }
  if (element.tagName !== "OPTION") { element.click(); return; }
  const select = element.closest("select");
  select.value = select.value === element.value ? "" : element.value; // once more takes it back
  select.dispatchEvent(new Event("change", { bubbles: true }));
}

export function bindKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    if (going) {
      going = false;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "g") { going = true; setTimeout(() => { going = false; }, 1500); return; }
    if (event.key === "?") { document.getElementById("help").showModal(); return; }
    if (event.key === "/") {
      const search = document.getElementById("search");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
      return;
    }
    const key = event.shiftKey && event.key.length === 1 ? `shift-${event.key.toLowerCase()}` : event.key;
    const run = own.get(key);
    if (run) { if (run(event) !== false) event.preventDefault(); return; }
    const element = event.repeat ? null : keyed(key);
    if (element) { event.preventDefault(); press(element); }
  });
}
