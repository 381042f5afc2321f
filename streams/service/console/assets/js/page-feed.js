// The page of the live feed: a stream of its own, as its filters are the service's; it resumes after the last record.
import { onKey } from "./keys.js";
import { local } from "./times.js";

const KEPT = 500;
const TYPES = ["prediction", "alert", "case-event", "model-update", "drift", "retrain", "dead-letter"];
const GATHER_MS = 250;
const AGAIN_MS = 3000;
const list = document.getElementById("records");
const template = document.getElementById("record");
const pause = document.getElementById("pause");
const asked = new URLSearchParams([...new URLSearchParams(location.search)].filter(([, value]) => value));
if (!asked.has("since")) asked.set("since", "15m");
let last = "";
let waiting = [];
let lost = 0;
let timer = 0;

// -- what is shown ---------------------------------------------------------------------------------------------------

const SAYS = {
  alert: (record) => `${record.status} ${record.reasons?.[0]?.text ?? ""}`,
  "case-event": (record) => [record.by, record.action, record.verdict, record.assignee, record.note].filter(Boolean).join(" "),
  "model-update": (record) => `v${record.version} ${record.action}`,
  drift: (record) => record.text,
  retrain: (record) => record.text ?? record.cause,
  "dead-letter": (record) => `${record.topic}: ${record.reason}`,
};

function link(name, address) {
  const made = document.createElement("a");
  made.href = address;
  made.textContent = name;
  return made;
}

function row(item) {
  const made = template.content.cloneNode(true);
  const record = item.record ?? {};
  const part = (selector) => made.querySelector(selector);
  part("time").textContent = local(item.ts * 1000);
  part("time").dateTime = part("time").title = new Date(item.ts * 1000).toISOString();
  part(".chip").textContent = record.severity ? `${item.type}, ${record.severity}` : item.type;
  if (record.severity) part(".chip").classList.add(record.severity);
  part(".feed-task").textContent = record.task ?? "";
  part(".feed-entity").textContent = record.entity_id ?? "";
  part(".feed-text").textContent = SAYS[item.type]?.(record) ?? "";
  part(".feed-score").textContent = record.score == null ? "" : `score ${Number(record.score.toPrecision(3))}`;
  part("details").addEventListener("toggle", ({ target }) => {
    const shown = target.querySelector("pre");
    if (!target.open || shown.textContent) return;
    shown.textContent = JSON.stringify(item, null, 2);
    const links = target.querySelector(".feed-links");
    if (record.alert_id) links.append(link("The alert", `/console/alerts/${encodeURIComponent(record.alert_id)}`));
    if (record.entity_id) links.append(link("The entity", `/console/entities/${encodeURIComponent(record.entity_id)}`));
    if (item.type === "dead-letter") links.append(link("The dead letter", `/console/dead-letters/${item.partition}-${item.offset}`));
    if (item.type === "drift") links.append(link("Before and after", `/console/drift/change/${encodeURIComponent(record.request_id)}`));
  });
  return made;
}

// Nothing moves while somebody looks: paused, the pointer on the list, or a record open.
const held = () => pause.getAttribute("aria-pressed") === "true" || list.matches(":hover, :focus-within") || list.querySelector("details[open]");

function show() {
  timer = 0;
  if (held()) {
    const paused = pause.getAttribute("aria-pressed") === "true" ? "" : " while you look";
    const text = waiting.length + lost ? `${(waiting.length + lost).toLocaleString()} ${waiting.length + lost === 1 ? "record waits" : "records wait"}${paused}` : "";
    const told = document.getElementById("waits");
    if (told.textContent !== text) told.textContent = text;
    later();
    return;
  }
  document.getElementById("waits").textContent = lost ? `${lost.toLocaleString()} older ones were left out` : "";
  if (waiting.length) {
    const made = document.createDocumentFragment();
    for (const item of waiting.reverse()) made.append(row(item));
    list.prepend(made);
    while (list.childElementCount > KEPT) list.lastElementChild.remove();
  }
  waiting = [];
  lost = 0;
  document.getElementById("nothing").hidden = list.childElementCount > 0;
  document.getElementById("feed-count").textContent = `${list.childElementCount} ${list.childElementCount === 1 ? "record" : "records"}`;
}

function later() { timer ||= setTimeout(show, GATHER_MS); }

function take(item) {
  waiting.push(item);
  if (waiting.length > KEPT) { waiting.shift(); lost += 1; }
  later();
}

// -- the stream ------------------------------------------------------------------------------------------------------

const state = (text) => { document.getElementById("feed-state").textContent = text; };

function follow() {
  const query = new URLSearchParams(asked);
  if (last) { query.delete("since"); query.set("last_event_id", last); }
  const address = `/v1/feed?${query}`;
  const source = new EventSource(address);
  const keep = (event) => { last = event.lastEventId || last; };
  source.onopen = () => state("live");
  source.onmessage = keep;
  for (const type of TYPES) source.addEventListener(type, (event) => { keep(event); take(JSON.parse(event.data)); });
  for (const type of ["resync", "drain"]) source.addEventListener(type, (event) => { keep(event); state("reconnecting"); });
  source.addEventListener("expired", () => { source.close(); state("signed off: load the page again"); });
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) { state("reconnecting"); return; } // the browser tries again by itself
    refused(address);
  };
}

// The service answered and refused. Why, only another request tells: where the place is gone, begin with what comes now.
async function refused(address) {
  const stop = new AbortController();
  try {
    const answer = await fetch(address, { signal: stop.signal });
    const problem = answer.ok ? {} : await answer.json();
    if (answer.status === 410) { last = ""; asked.set("since", "0s"); }
    state(answer.ok ? "reconnecting" : problem.detail);
    if (answer.status === 401 || answer.status === 422) return;
  } catch { state("reconnecting"); }
  stop.abort();
  setTimeout(follow, AGAIN_MS);
}

pause.addEventListener("click", () => {
  const paused = pause.getAttribute("aria-pressed") !== "true";
  pause.setAttribute("aria-pressed", paused);
  pause.textContent = paused ? "Go on" : "Pause";
  later();
});
onKey("p", () => pause.click());
follow();
