"use strict";
{
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const PRINTED = 680; // CSS pixels between the margins of a printed A4 page

  // Plotly takes colours, not CSS variables: those of the page, as they are at this moment.
  function draw(plot, width) {
    const { color, borderColor } = getComputedStyle(plot);
    const axis = { gridcolor: borderColor, zerolinecolor: borderColor, linecolor: color };
    const template = {
      layout: {
        font: { color, family: "system-ui, sans-serif", size: 12 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        modebar: { bgcolor: "rgba(0,0,0,0)", color: borderColor, activecolor: color },
        xaxis: axis,
        yaxis: axis,
      },
    };
    const { data, layout } = figures[plot.dataset.figure];
    // Named one by one: the default ones can send the figure to a server.
    const buttons = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
    const config = { displaylogo: false, responsive: true, modeBarButtons: [buttons] };
    return Plotly.react(plot, data, { ...layout, template, width }, config);
  }
  const drawAll = (width) => plots.map((plot) => draw(plot, width));
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  document.getElementById("theme").addEventListener("click", () => {
    const set = root.dataset.theme;
    const dark = set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    drawAll();
  });

  // Paper is white and narrow, whatever the screen is.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    drawAll(PRINTED);
  });
  addEventListener("afterprint", () => {
    if (before === undefined) delete root.dataset.theme;
    else root.dataset.theme = before;
    drawAll();
  });

  for (const button of document.querySelectorAll(".zoom"))
    button.addEventListener("click", () => button.classList.toggle("large"));

  for (const sheet of document.querySelectorAll(".sheet")) {
    const form = sheet.querySelector("form");
    const digits = [...sheet.querySelectorAll(".digits > li")];
    const filter = () => {
      const wanted = new FormData(form);
      const [truth, answer] = [wanted.get("true"), wanted.get("predicted")];
      for (const digit of digits)
        digit.hidden =
          (truth && digit.dataset.true !== truth) ||
          (answer && !JSON.parse(digit.dataset.predicted).includes(answer));
      const shown = digits.filter((digit) => !digit.hidden).length;
      form.querySelector("output").textContent = `${shown} of ${digits.length} shown`;
    };
    form.addEventListener("change", filter);
    filter(); // a browser that goes back keeps what was selected

    // A click on a cell of the confusion matrix shows its digits.
    for (const plot of plots.filter((each) => figures[each.dataset.figure].data[0].meta === "confusion"))
      plot.on("plotly_click", ({ points: [cell] }) => {
        form.elements.true.value = cell.customdata[0];
        form.elements.predicted.value = cell.customdata[0] === cell.customdata[1] ? "" : cell.customdata[1];
        filter();
        sheet.scrollIntoView({ behavior: "smooth" });
      });
  }
}
