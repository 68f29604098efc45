"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = [...original];
      if (next !== "none") {
        rows.sort((a, b) => {
          const x = a.cells[column].dataset.key, y = b.cells[column].dataset.key;
          // Undefined values stay last in both directions.
          if (x === "" || y === "") return (x === "") - (y === "");
          const order = x - y;
          return sign * (Number.isNaN(order) ? x.localeCompare(y, "en", { numeric: true }) : order);
        });
      }
      body.append(...rows);
    });
  });
}
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
