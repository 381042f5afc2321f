// The page of one alert: keys, the way through the list it came from, and what others do with it meanwhile.
import { onKey } from "./keys.js";
import { toast } from "./toasts.js";

const UNDO_MS = 10_000;
const alertId = document.getElementById("alert").dataset.alert;
const path = encodeURIComponent(alertId);
const SAID = { confirmed: "Confirmed.", false_alarm: "A false alarm.", unsure: "Marked as unsure." };

// Whatever has data-key in the page of now: a button or link is pressed, a field gets the focus.
for (const key of ["1", "2", "3", "4", "5", "6", "7", "8", "9", "u", "a", "s", "e", "n", "r", "j", "k"]) {
  onKey(key, () => {
    const found = document.querySelector(`[data-key="${key}"]:not([hidden])`);
    if (!found) return false;
    if (found.matches("select")) found.focus(); else found.click();
    return true;
  });
}

// The list that one came from, as its page kept it: {"address": "?…", "ids": ["…"]}.
function showWay() {
  let list = {};
  try { list = JSON.parse(sessionStorage.getItem("weir-list") ?? "{}"); } catch { /* of another version */ }
  if (list.address) document.getElementById("back").href = list.address;
  const at = (list.ids ?? []).indexOf(alertId);
  const ways = at < 0 ? {} : { previous: list.ids[at - 1], following: list.ids[at + 1] };
  for (const [name, id] of Object.entries(ways)) {
    const link = document.getElementById(name);
    link.hidden = !id;
    if (id) link.href = `/console/alerts/${encodeURIComponent(id)}`;
  }
}

function look(events) {
  const after = new URLSearchParams(events.map((id) => ["after", id]));
  htmx.ajax("GET", `/console/alert/case/${path}?${after}`, { target: "#case", swap: "outerMorph" })
    .then(() => document.body.dispatchEvent(new CustomEvent("learned")));
}

for (const type of ["weir:alert", "weir:case-event"]) {
  document.body.addEventListener(type, ({ detail }) => {
    const told = detail.records.map(({ record }) => record).filter((record) => record?.alert_id === alertId);
    if (told.length) look(told.map((record) => record.case_event_id).filter(Boolean).slice(-100));
    // Its marks: how the alert ended, and labels.
    if (told.some((record) => record.action === "learned")) htmx.ajax("GET", `/console/alert/timeline/${path}`, { target: "#timeline", swap: "outerHTML" });
  });
}

// What was judged can be undone for ten seconds where everybody looks; after that, by the button beside the verdict.
document.body.addEventListener("judged", ({ detail }) => {
  toast(SAID[detail.value] ?? detail.value, "", { name: "Undo", stayMs: UNDO_MS, run: () => document.getElementById("undo")?.click() });
  document.getElementById("judge").reset();
});
document.body.addEventListener("noted", () => { document.getElementById("hand-note").value = ""; });

showWay();
