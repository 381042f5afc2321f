// Short messages in the corner: what was done, with a way back, or what went wrong. The server makes them too
// (_alerts_changed.html): one with data-stay goes after so many seconds, which it counts down in [data-left].
const STAY_S = 6;

function stay(box, seconds) {
  box.dataset.counts = "";
  let left = seconds;
  const show = () => { const shown = box.querySelector("[data-left]"); if (shown) shown.textContent = Math.max(left, 0); };
  show();
  const timer = setInterval(() => {
    left -= 1;
    show();
    if (left <= 0 && !box.matches(":focus-within")) box.remove(); // nobody loses the button under the finger
    if (!box.isConnected) clearInterval(timer);
  }, 1000);
}

// `action`: {name, run, stayMs}, a way back; the key u takes it.
export function toast(text, kind = "", action = null) {
  const box = document.createElement("div");
  box.className = `toast ${kind}`;
  box.append(text);
  if (action) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${action.name} ` });
    const left = Object.assign(document.createElement("span"), { className: "soft" });
    left.dataset.left = left.ariaHidden = "true";
    button.dataset.key = "u";
    button.append(Object.assign(document.createElement("kbd"), { textContent: "u" }), " ", left);
    button.addEventListener("click", () => { box.remove(); action.run(); });
    box.append(" ", button);
  }
  document.getElementById("toasts").append(box);
  stay(box, (action?.stayMs ?? STAY_S * 1000) / 1000);
  return box;
}

export function countToasts() {
  for (const box of document.querySelectorAll(".toast[data-stay]:not([data-counts])")) stay(box, Number(box.dataset.stay));
}

export function toastProblem(ctx) {
  let problem = {};
  try { problem = JSON.parse(ctx.text); } catch { /* not ours: a proxy's page, say */ }
  const status = ctx.response?.status ?? ctx.response?.raw?.status ?? "";
  if (status === 401) problem = { detail: "You are signed off, and nothing was changed. Load the page again to see how to sign on." };
  toast([problem.detail ?? `The service answered ${status}.`, problem.fix].filter(Boolean).join(" "), "bad");
}
