// Short messages in the corner: what was done, with a way back, or what went wrong.
const STAY_MS = 6000;

export function toast(text, kind = "", action = null) {
  const box = document.createElement("div");
  box.className = `toast ${kind}`;
  box.append(text);
  if (action) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = action.name;
    button.addEventListener("click", () => { box.remove(); action.run(); });
    box.append(" ", button);
  }
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), action?.stayMs ?? STAY_MS);
  return box;
}

export function toastProblem(ctx) {
  let problem = {};
  try { problem = JSON.parse(ctx.text); } catch { /* not ours: a proxy's page, say */ }
  const status = ctx.response?.status ?? ctx.response?.raw?.status ?? "";
  toast([problem.detail ?? `The service answered ${status}.`, problem.fix].filter(Boolean).join(" "), "bad");
}
