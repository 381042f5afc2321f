// One stream of the feed for all tabs of this browser: HTTP/1.1 allows six connections to a host. The tab that holds
// the lock follows and tells the others; where it closes, the next one goes on after the last record that was told.
const TYPES = ["alert", "case-event", "model-update", "drift", "retrain", "dead-letter"];
const GATHER_MS = 250;
const channel = new BroadcastChannel("weir-feed");
let waiting = [];
let timer = 0;
let led = null; // the state that this tab told last, where it is the one that follows

function state(name, text) {
  const shown = document.getElementById("live");
  shown.dataset.state = name;
  shown.querySelector(".live-text").textContent = text;
}

// Records go to the page together, so that a burst is one refresh: `weir:alert` with detail.records.
function give(message) {
  if (message.state) { state(...message.state); return; }
  waiting.push(message);
  timer ||= setTimeout(() => {
    const byType = Map.groupBy(waiting, (record) => record.type);
    waiting = [];
    timer = 0;
    for (const [type, records] of byType) {
      document.body.dispatchEvent(new CustomEvent(`weir:${type}`, { detail: { records }, bubbles: true }));
    }
  }, GATHER_MS);
}

function tell(message) {
  if (message.state) led = message.state;
  channel.postMessage(message);
  give(message);
}

function open(lost) {
  let last = localStorage.getItem("weir-feed-id");
  const source = new EventSource(`/v1/feed${last ? `?last_event_id=${encodeURIComponent(last)}` : ""}`);
  const keep = (event) => { if (event.lastEventId) { last = event.lastEventId; localStorage.setItem("weir-feed-id", last); } };
  source.onopen = () => tell({ state: ["on", "live"] });
  source.onerror = () => {
    tell({ state: ["wait", "reconnecting"] });
    if (source.readyState !== EventSource.CLOSED) return;
    localStorage.removeItem("weir-feed-id"); // refused: the place may be gone, so begin with what comes now
    setTimeout(() => open(lost), 3000);
  };
  source.onmessage = keep;
  for (const type of TYPES) source.addEventListener(type, (event) => { keep(event); tell(JSON.parse(event.data)); });
  for (const type of ["resync", "drain"]) source.addEventListener(type, keep); // the browser connects again by itself
  source.addEventListener("expired", () => { source.close(); tell({ state: ["off", "signed off"] }); lost(); });
}

export function follow() {
  if (document.body.dataset.page === "problem") return;
  state("wait", "connecting");
  channel.onmessage = (event) => {
    if (!event.data.ask) give(event.data);
    else if (led) channel.postMessage({ state: led });
  };
  channel.postMessage({ ask: true }); // "live" is said once the tab that follows has said so
  if (!navigator.locks) { open(() => {}); return; } // an insecure address that is not this machine's
  navigator.locks.request("weir-feed", () => new Promise(open));
}
