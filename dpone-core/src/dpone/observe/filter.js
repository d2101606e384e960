// The filter of a matrix. Without it the page shows everything.
(() => {
  const form = document.getElementById("filter");
  const [text, connector, status] = ["text", "connector", "status"].map((id) => document.getElementById(id));
  const said = document.getElementById("found");
  const tables = [...document.querySelectorAll("table.matrix")];
  const wanted = (cell) =>
    (!connector.value || cell.dataset.connector.split(" ").includes(connector.value)) &&
    (!status.value || cell.dataset.status === status.value);

  function apply() {
    const words = text.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let rows = 0;
    let all = 0;
    for (const table of tables) {
      let shown = 0;
      for (const column of table.tHead.querySelectorAll("[data-connector]"))
        column.hidden = Boolean(connector.value) && column.dataset.connector !== connector.value;
      for (const row of table.tBodies[0].rows) {
        const cells = [...row.querySelectorAll("[data-connector]")];
        for (const cell of cells) {
          cell.classList.toggle("other", !wanted(cell));
          if (table.classList.contains("wideways"))
            cell.hidden = Boolean(connector.value) && cell.dataset.connector !== connector.value;
        }
        const read = [...row.querySelectorAll("th, td:not([data-connector]), .badge, .names")];
        const content = read.map((part) => part.textContent.toLowerCase()).join(" ");
        row.hidden = !(cells.some(wanted) && words.every((word) => content.includes(word)));
        shown += row.hidden ? 0 : 1;
        all += 1;
      }
      table.closest("section").hidden = shown === 0;
      rows += shown;
    }
    said.textContent = `${rows} of ${all} rows`;
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();
})();
