// Shows the values under the pointer in a chart's legend, and a vertical line at their step.
for (const figure of document.querySelectorAll("figure.chart")) {
  const svg = figure.querySelector("svg");
  const cursor = figure.querySelector(".cursor");
  const outputs = [...figure.querySelectorAll("output")];
  const last = outputs.map((output) => output.textContent);
  const step = figure.querySelector(".step");
  const series = Object.values(JSON.parse(figure.dataset.series));

  svg.addEventListener("pointermove", (event) => {
    const x = new DOMPoint(event.clientX, 0).matrixTransform(svg.getScreenCTM().inverse()).x;
    const nearest = series.map((points) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)));
    nearest.forEach((point, i) => (outputs[i].textContent = Number(point[2].toPrecision(3))));
    cursor.setAttribute("transform", `translate(${nearest[0][0] - cursor.getAttribute("x1")})`);
    cursor.classList.add("shown");
    step.textContent = `step ${Math.round(nearest[0][1])}`;
  });

  svg.addEventListener("pointerleave", () => {
    outputs.forEach((output, i) => (output.textContent = last[i]));
    cursor.classList.remove("shown");
    step.textContent = "";
  });
}
