// The page of one alert: the way through the list it came from, and what others do with it meanwhile.

const alertId = document.getElementById("alert").dataset.alert;
const path = encodeURIComponent(alertId);

// The list that one came from, as its page kept it: {"address": "?…", "ids": ["…"]}.
let list = {};
try { list = JSON.parse(sessionStorage.getItem("weir-list") ?? "{}"); } catch { /* of another version */ }

// Who works through a list goes on in it.
document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
  if (ctx.sourceElement.id === "next" && list.address) ctx.request.action += new URL(list.address, location).search;
});

function showWay() {
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

// Enter in a field of the work form would press its first button.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("#work :is(input, select)")) return;
  event.preventDefault();
  document.getElementById(event.target.dataset.enter)?.click();
});

// What is done here, or taken back on a toast, is what the list of alerts can do: then look, and do not wait for the feed.
document.addEventListener("htmx:finally:request", ({ detail: { ctx } }) => {
  if (!/^\/console\/alerts\/(verdict|undo|work)/.test(ctx.request.action) || ctx.response?.status !== 200) return;
  for (const form of ["judge", "work"]) document.getElementById(form)?.reset();
  look([]);
});
document.body.addEventListener("noted", () => { document.getElementById("hand-note").value = ""; });

// Not by the trigger `load`: htmx may be there before the script that adds the token to what is sent.
addEventListener("load", () => document.body.dispatchEvent(new CustomEvent("present")));
showWay();
