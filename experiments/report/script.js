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
