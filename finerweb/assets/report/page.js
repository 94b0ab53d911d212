"use strict";
// The page is whole without this program; it adds a filter by language, and opens what is folded before printing.
const box = document.getElementById("language");
const marked = [...document.querySelectorAll("[data-language]")];
const folds = [...document.querySelectorAll("details")];
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

function filter() {
  const words = plain(box.value.trim());
  const shown = new Set();
  for (const part of marked) {
    const fits = plain(part.dataset.language).includes(words);
    part.hidden = !fits;
    if (fits) shown.add(part.dataset.language);
  }
  for (const fold of folds) {
    if (!words || fold.dataset.language) continue;
    const own = [...fold.querySelectorAll("[data-language]")];
    if (own.length && own.some((part) => !part.hidden)) fold.open = true;
  }
  const names = [...shown];
  document.getElementById("told").textContent = !words ? "" : names.length === 0 ? "no language fits"
    : names.length > 3 ? `${names.length} languages` : names.join(", ");
}

if (marked.length) {
  document.getElementById("filter").hidden = false;
  box.addEventListener("input", filter);
  filter();
}
let closed = [];
addEventListener("beforeprint", () => {
  closed = folds.filter((fold) => !fold.open);
  closed.forEach((fold) => { fold.open = true; });
  document.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
});
addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));
// A link to a part inside something folded opens it.
addEventListener("hashchange", () => document.getElementById(location.hash.slice(1))?.closest("details")?.setAttribute("open", ""));
