// #ask: what is asked before something is changed. htmx puts a form into it, the browser keeps the focus within and
// closes it by Escape, and the focus returns to what opened it, by id, as that may have been drawn anew meanwhile.
const box = document.getElementById("ask");
let opener = "";

export function bindDialogs() {
  document.addEventListener("click", ({ target }) => {
    const asks = target.closest?.('[hx-target="#ask"]');
    if (asks && !box.open) opener = asks.id;
    if (target.closest?.("[data-closes]")) target.closest("dialog").close();
    const copies = target.closest?.("[data-copy]");
    if (copies) navigator.clipboard.writeText(document.getElementById(copies.dataset.copy).textContent).then(() => { copies.textContent = "Copied"; });
  });
  document.addEventListener("htmx:after:swap", () => {
    if (box.childElementCount && !box.open) box.showModal();
  });
  // At the very end of the request: until then its form has to be there, as what the answer triggers comes from it.
  document.addEventListener("htmx:finally:request", ({ detail: { ctx } }) => {
    if (box.contains(ctx.sourceElement) && ctx.response?.status === 204) box.close();
  });
  document.addEventListener("htmx:response:error", ({ detail: { ctx } }) => {
    const told = box.contains(ctx.sourceElement) && document.getElementById("ask-problem");
    if (!told) return;
    let problem = {};
    try { problem = JSON.parse(ctx.text); } catch { /* a proxy's page, say */ }
    told.textContent = [problem.detail ?? "The service refused it.", problem.fix].filter(Boolean).join(" ");
  });
  box.addEventListener("close", () => {
    box.replaceChildren();
    (document.getElementById(opener) ?? document.getElementById("main")).focus();
  });
}

// What came since the page was made is counted, and shown when asked for.
export function countNews() {
  for (const shown of document.querySelectorAll("[data-news]")) {
    let count = 0;
    document.body.addEventListener(`weir:${shown.dataset.news}`, ({ detail }) => {
      count += detail.records.length;
      shown.textContent = `${count.toLocaleString()} ${count === 1 ? shown.dataset.one : shown.dataset.many}: show`;
      shown.hidden = false;
    });
  }
}
