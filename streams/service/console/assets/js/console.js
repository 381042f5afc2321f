// What every page has: theme, times, toasts, keys and the live feed. A page's own module is js/page-NAME.js.
import { bindDialogs, countNews } from "./dialogs.js";
import { bindKeys } from "./keys.js";
import { follow } from "./live.js";
import { showTimes } from "./times.js";
import { countToasts, toast, toastProblem } from "./toasts.js";

const token = document.querySelector('meta[name="csrf-token"]').content;

document.addEventListener("htmx:config:request", ({ detail }) => {
  if (token) detail.ctx.request.headers["X-CSRF-Token"] = token;
});
document.addEventListener("htmx:after:swap", () => { showTimes(); countToasts(); });
document.addEventListener("htmx:finally:request", ({ detail }) => detail.ctx.sourceElement?.closest(".toast")?.remove()); // it was undone
document.addEventListener("htmx:response:error", ({ detail }) => toastProblem(detail.ctx));
document.addEventListener("htmx:error", ({ detail }) => {
  if (!detail.ctx?.response) toast("The service does not answer. What you did may not have reached it.", "bad");
});
document.addEventListener("toast", ({ detail }) => toast(detail.text ?? detail.value, detail.kind)); // by HX-Trigger

document.getElementById("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("weir-theme", next);
  document.documentElement.dataset.theme = next;
});
document.getElementById("help-button").addEventListener("click", () => document.getElementById("help").showModal());

showTimes();
bindKeys();
bindDialogs();
countNews();
follow();
