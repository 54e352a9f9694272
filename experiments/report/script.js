"use strict";
{
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const set = root.dataset.theme;
    const dark = set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // The point that is nearest to the pointer says which it is.
  for (const layer of document.querySelectorAll(".points")) {
    const { places, names } = JSON.parse(layer.textContent);
    const plot = layer.closest(".plot");
    const said = plot.querySelector("output");
    const svg = plot.querySelector("svg");
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      let best = -1;
      let nearest = 12 ** 2; // pixels
      places.forEach(([a, b], i) => {
        const distance = (a * box.width - x) ** 2 + (b * box.height - y) ** 2;
        if (distance < nearest) [best, nearest] = [i, distance];
      });
      said.textContent = best < 0 ? "" : names[best];
    });
  }

  // A click on the name of a column sorts the table by it; the next one turns the order.
  for (const table of document.querySelectorAll(".runs table")) {
    const heads = [...table.querySelectorAll("thead th")];
    const key = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent;
    const words = new Intl.Collator(undefined, { numeric: true });
    const compare = (a, b) => (a === "") - (b === "") || words.compare(a, b);
    heads.forEach((head, at) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => (up ? 1 : -1) * compare(key(a, at), key(b, at)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  // Marked runs give the command that compares them.
  const marked = document.getElementById("marked");
  if (marked) {
    const code = marked.querySelector("code");
    const show = () => {
      const runs = [...document.querySelectorAll(".runs input:checked")];
      marked.hidden = !runs.length;
      code.textContent = [code.dataset.before, ...runs.map((each) => each.value)].join(" ");
      marked.querySelector("pre").hidden = runs.length < 2;
      marked.querySelector("output").textContent =
        runs.length < 2 ? "Mark another run to compare it with." : `To compare ${runs.length} runs:`;
    };
    document.addEventListener("change", show);
    show(); // a browser that goes back keeps what was marked
  }

  for (const sheet of document.querySelectorAll(".sheet")) {
    const form = sheet.querySelector("form");
    const digits = [...sheet.querySelectorAll(".digits > li")];
    const more = sheet.querySelector(".more");
    let limit = Number(more.dataset.shown);
    const filter = () => {
      const wanted = new FormData(form);
      const [truth, answer] = [wanted.get("true"), wanted.get("predicted")];
      const method = wanted.get("method");
      let found = 0;
      for (const digit of digits) {
        const fits =
          (!truth || digit.dataset.true === truth) &&
          (!answer || JSON.parse(digit.dataset.predicted).includes(answer)) &&
          (!method || JSON.parse(digit.dataset.methods).includes(method));
        found += fits;
        digit.hidden = !fits || found > limit;
      }
      const shown = Math.min(found, limit);
      form.querySelector("output").textContent = `${shown} of ${found} shown`;
      more.hidden = found <= limit;
    };
    form.addEventListener("change", filter);
    more.addEventListener("click", () => {
      limit = Infinity;
      filter();
    });
    filter(); // a browser that goes back keeps what was selected

    // A click on a cell of the confusion matrix shows its digits.
    for (const cell of document.querySelectorAll(".confusion button"))
      cell.addEventListener("click", () => {
        const { truth, predicted } = cell.dataset;
        form.elements.true.value = truth;
        form.elements.predicted.value = truth === predicted ? "" : predicted;
        filter();
        sheet.scrollIntoView({ behavior: "smooth" });
      });
  }
}
