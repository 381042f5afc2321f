// Before anything is drawn: the theme that was chosen, or the system's.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = () => { document.documentElement.dataset.theme = localStorage.getItem("weir-theme") ?? (dark.matches ? "dark" : "light"); };
  dark.addEventListener("change", show);
  addEventListener("storage", show);
  show();
})();
