// Keys: those of every page here; a page adds its own with onKey.
const own = new Map();
let going = false;

export function onKey(key, run) { own.set(key, run); }

function typing(target) { return target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea, [contenteditable]"); }

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
    const run = own.get(event.shiftKey && event.key.length === 1 ? `shift-${event.key.toLowerCase()}` : event.key);
    if (run && run(event) !== false) event.preventDefault();
  });
}
