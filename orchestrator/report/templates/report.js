for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const read = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [read(a, column), read(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const gap = Number(x) - Number(y);
      return down * (Number.isNaN(gap) ? x.localeCompare(y) : gap);
    });
    body.append(...rows);
  }));
}
