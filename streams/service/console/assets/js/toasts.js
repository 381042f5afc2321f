// Short messages in the corner: what was done, with a way back, or what went wrong. The server makes them too
// (_alerts_changed.html): one with data-stay goes after so many seconds, which it counts down in [data-left].
const STAY_S = 6;

function stay(box, seconds) {
  box.dataset.counts = "";
  let left = seconds;
  const timer = setInterval(() => {
    left -= 1;
    const shown = box.querySelector("[data-left]");
    if (shown) shown.textContent = left;
    if (left <= 0 && !box.matches(":focus-within")) box.remove(); // nobody loses the button under the finger
    if (!box.isConnected) clearInterval(timer);
  }, 1000);
}

export function toast(text, kind = "") {
  const box = document.createElement("div");
  box.className = `toast ${kind}`;
  box.append(text);
  document.getElementById("toasts").append(box);
  stay(box, STAY_S);
  return box;
}

export function countToasts() {
  for (const box of document.querySelectorAll(".toast[data-stay]:not([data-counts])")) stay(box, Number(box.dataset.stay));
}

export function toastProblem(ctx) {
  let problem = {};
  try { problem = JSON.parse(ctx.text); } catch { /* not ours: a proxy's page, say */ }
  const status = ctx.response?.status ?? ctx.response?.raw?.status ?? "";
  toast([problem.detail ?? `The service answered ${status}.`, problem.fix].filter(Boolean).join(" "), "bad");
}
