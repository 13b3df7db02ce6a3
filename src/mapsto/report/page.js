"use strict";
// A link into a folded section opens it.
function openTarget() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const details = target.closest("details");
  if (details) details.open = true;
  (details || target).scrollIntoView();
}
addEventListener("hashchange", openTarget);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => { details.open = true; }));

// Tables with filters: a search in all cells, and a choice for each filtered column.
for (const table of document.querySelectorAll("table[data-filter]")) {
  const rows = [...table.tBodies[0].rows], names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
  const columns = table.dataset.filter.split(",").map(Number).filter(Boolean);
  const bar = document.createElement("div"), search = document.createElement("input"), count = document.createElement("output");
  bar.className = "filters";
  search.type = "search"; search.placeholder = "search these rows"; search.setAttribute("aria-label", "search these rows");
  const text = (row, column) => row.cells[column].textContent.trim();
  const choices = columns.map((column) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", names[column]);
    select.append(new Option(`${names[column]}: all`, ""));
    for (const value of [...new Set(rows.map((row) => text(row, column)))].filter(Boolean).sort()) {
      select.append(new Option(`${names[column]}: ${value}`, value));
    }
    return select;
  });
  const apply = () => {
    const wanted = search.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = row.textContent.toLowerCase().includes(wanted)
        && choices.every((select, i) => !select.value || text(row, columns[i]) === select.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  // A link such as that of a cell of the confusion matrix sets the choices.
  table.setFilters = (values) => {
    search.value = "";
    choices.forEach((select, i) => { select.value = values[names[columns[i]]] || ""; });
    apply();
  };
  bar.addEventListener("input", apply);
  bar.append(search, ...choices, count);
  table.parentElement.before(bar);
  apply();
}
for (const link of document.querySelectorAll("a[data-set]")) {
  link.addEventListener("click", () => {
    const section = document.getElementById(link.getAttribute("href").slice(1));
    const table = section && section.querySelector("table[data-filter]");
    if (table) table.setFilters(JSON.parse(link.dataset.set));
  });
}
// A second click on the same link changes no hash.
for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => setTimeout(openTarget));
openTarget();
