"use strict";
(() => {
  const read = (element) => JSON.parse(element.textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const plots = all("script[data-figure]").map((element) => {
    const plot = document.getElementById(element.dataset.figure);
    const { data, layout } = read(element);
    Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false, displaylogo: false });
    return plot;
  });

  // Legends: a trace is shown while each of its keys that has a button is pressed.
  for (const legend of all(".legend")) {
    const buttons = all("button", legend);
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      const off = new Set(buttons.filter((b) => b.getAttribute("aria-pressed") !== "true").map((b) => b.dataset.key));
      for (const id of legend.dataset.for.split(" ")) {
        const plot = document.getElementById(id);
        Plotly.restyle(plot, { visible: plot.data.map((trace) => !trace.meta.some((key) => off.has(key))) });
      }
    });
  }

  for (const element of all("script[data-slider]")) {
    const slider = document.getElementById(element.dataset.slider);
    const output = document.getElementById(`${slider.id}-value`);
    const { values, frames, name } = read(element);
    const move = () => {
      const at = Number(slider.value);
      const value = String(Number(values[at].toPrecision(4)));
      output.textContent = value;
      slider.setAttribute("aria-valuetext", `${name} = ${value}`);
      for (const [id, entries] of Object.entries(frames)) {
        for (const entry of entries) Plotly.restyle(id, { [entry.key]: [entry.frames[at]] }, [entry.trace]);
      }
    };
    slider.addEventListener("input", move);
    move(); // a browser may restore where it stood
  }

  const content = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? (cell.dataset.value === "" ? NaN : Number(cell.dataset.value)) : cell.textContent;
  };
  const compare = (a, b, sign) => {
    if (typeof a === "string") return sign * a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown ones come last
    return sign * (a - b || 0);
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        for (const other of all("thead th", table)) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = all("tbody tr", table);
        rows.sort((a, b) => compare(content(a, column), content(b, column), sign));
        table.tBodies[0].append(...rows);
        document.getElementById("sorted").textContent = `Sorted by ${head.textContent}, ${order}.`;
      });
    });
  }

  // On paper figures are as wide as the page.
  addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: 640 })));
  addEventListener("afterprint", () =>
    plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));
})();
