// The list of alerts: which row is marked, which are selected, and rows that others change.
// The marked row is the one whose link has the focus; it stays marked while a button has it.
import { onKey } from "./keys.js";
import { toast } from "./toasts.js";

const REFRESHED_AT_ONCE = 40; // ids stand in an address
const OURS_MS = 5000;
let last = null; // the row of the last x: shift-x selects from there

const rows = () => [...document.querySelectorAll("#row-list > tr[data-id]")];
const marked = () => document.querySelector("#row-list > tr.current");
const box = (row) => row?.querySelector("input[type=checkbox]");
const picked = () => rows().filter((row) => box(row)?.checked);
const rowOf = (id) => document.querySelector(`#row-list > tr[data-id="${CSS.escape(id)}"]`);

function mark(row) {
  marked()?.classList.remove("current");
  row?.classList.add("current");
}

function move(by) {
  const all = rows();
  const at = all.indexOf(marked());
  const next = all[at < 0 ? 0 : at + by];
  if (next) next.querySelector("a.open").focus();
  else if (by > 0) document.getElementById("more-link")?.click();
}

function count() {
  const n = picked().length;
  const bulk = document.getElementById("bulk");
  if (!bulk) return;
  bulk.dataset.picked = n;
  document.getElementById("selected").textContent = n ? `${n} selected` : "Nothing selected: buttons and keys act on the marked row.";
  document.getElementById("select-none").hidden = !n;
  const all = document.getElementById("select-all");
  if (all) { all.checked = n > 0 && n === rows().length; all.indeterminate = n > 0 && !all.checked; }
}

function select(some, state) {
  for (const row of some) if (box(row)) box(row).checked = state;
  count();
}

function pick(from, to, state) {
  const all = rows();
  const [first, end] = [all.indexOf(from), all.indexOf(to)].sort((a, b) => a - b);
  last = to;
  select(all.slice(Math.max(first, 0), end + 1), state);
}

onKey("j", () => move(1));
onKey("k", () => move(-1));
for (const [key, by] of [["ArrowDown", 1], ["ArrowUp", -1]]) {
  onKey(key, (event) => (event.target.closest("#row-list") ? move(by) : false)); // elsewhere they scroll
}
onKey("x", () => { const row = marked(); if (box(row)) pick(row, row, !box(row).checked); });
onKey("shift-x", () => { const row = marked(); if (box(row)) pick(last?.isConnected ? last : row, row, true); });

document.addEventListener("focusin", ({ target }) => { const row = target.closest?.("#row-list > tr[data-id]"); if (row) mark(row); });
document.addEventListener("click", (event) => {
  const one = event.target.closest("#row-list input[type=checkbox]");
  if (one) pick(event.shiftKey && last?.isConnected ? last : one.closest("tr"), one.closest("tr"), one.checked);
  if (event.target.id === "select-all") select(rows(), event.target.checked);
  if (event.target.id === "select-none") { select(rows(), false); marked()?.querySelector("a.open").focus(); }
});

// Without a selection a button is about the marked row; without that either, it is about nothing.
document.addEventListener("click", (event) => {
  const button = event.target.closest("#bulk button[hx-post]");
  if (!button || picked().length) return;
  if (box(marked())) { select([marked()], true); return; }
  event.stopImmediatePropagation();
  toast("Select alerts first: x, or the boxes of their rows.");
}, true);
document.addEventListener("click", (event) => { // what is yours already is released by the same key
  if (!event.target.closest("#bulk-claim") || !picked().every((row) => "mine" in row.dataset)) return;
  event.stopPropagation();
  document.getElementById("bulk-release").click();
}, true);

document.addEventListener("submit", (event) => { if (event.target.id === "bulk") event.preventDefault(); }); // Enter in the note

// The page of an alert goes through the list that it was opened from.
addEventListener("pagehide", () => {
  const list = { address: location.pathname + location.search, ids: rows().map((row) => row.dataset.id) };
  sessionStorage.setItem("weir-list", JSON.stringify(list));
});

const ours = new Map(); // when this page did something with an alert: its rows came with the answer

// What a button is about is taken off the selection at once: the next key is about the next row, however fast it comes.
const asked = new WeakMap();
document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
  if (!ctx.sourceElement.closest("#bulk")) return;
  asked.set(ctx, ctx.request.body.getAll("alert_ids"));
  select(rows(), false);
});
document.addEventListener("htmx:finally:request", ({ detail: { ctx } }) => {
  const failed = !ctx.response || (ctx.response.status ?? ctx.response.raw.status) >= 400;
  if (failed) select((asked.get(ctx) ?? []).map(rowOf), true);
});

// What was refused is selected again: the toast names it.
function settle() {
  for (const said of document.querySelectorAll("#toasts [data-refused]:not([data-seen])")) {
    said.dataset.seen = "";
    select(said.dataset.refused.split(" ").map((key) => document.getElementById(`row-${key}`)), true);
    for (const { value } of said.querySelectorAll("[name=alert_ids]")) ours.set(value, Date.now());
  }
  count();
}

// Rows swap without moving: the marked one stays marked, and focus that went with the old list comes back to the new.
let held = "";
document.addEventListener("htmx:before:swap", () => { held = marked()?.id ?? ""; });
document.addEventListener("htmx:after:swap", ({ detail }) => {
  const was = document.getElementById(held);
  if (was && !marked()) mark(was); // unless a key has moved on meanwhile
  settle();
  const source = detail.ctx.sourceElement;
  if (source?.id === "new-link" || source?.id === "list") (was ?? rows()[0])?.querySelector("a.open").focus();
});
document.addEventListener("htmx:finally:request", ({ detail }) => {
  if (document.activeElement !== document.body) return;
  if (detail.ctx.sourceElement?.id === "more-link") move(1);
  else marked()?.querySelector("a.open").focus(); // it was on a toast that is gone
});

// Others judge and claim: their rows are shown anew where they are.
document.body.addEventListener("weir:case-event", ({ detail }) => {
  const me = document.getElementById("queue").dataset.me;
  const known = (event) => event.action === "learned" || (event.by === me && Date.now() - (ours.get(event.alert_id) ?? 0) < OURS_MS);
  const told = detail.records.map(({ record }) => record).filter((event) => rowOf(event.alert_id) && !known(event));
  for (let at = 0; at < told.length; at += REFRESHED_AT_ONCE) {
    const some = told.slice(at, at + REFRESHED_AT_ONCE);
    const query = new URLSearchParams([...some.map((e) => ["alert_id", e.alert_id]), ...some.map((e) => ["case_event_id", e.case_event_id])]);
    htmx.ajax("GET", `/console/alerts/rows?${query}`, { source: "#rows", swap: "none" });
  }
});

new ResizeObserver(([top]) => document.documentElement.style.setProperty("--top", `${top.target.offsetHeight}px`))
  .observe(document.querySelector(".top"));
count();
