"use strict";
// Values at the pointer, the pictures' slider, commands that are copied by a click.
const charts = JSON.parse(document.getElementById("numbers").textContent).charts;

const shown = (v) => {
  const n = Number(v);
  if (!Number.isFinite(n)) return String(v);
  return n !== 0 && (Math.abs(n) < 1e-3 || Math.abs(n) >= 1e7)
    ? n.toExponential(3) : n.toLocaleString("en", { maximumSignificantDigits: 5 });
};

document.querySelectorAll("figure[data-chart]").forEach((figure) => {
  const chart = charts[Number(figure.dataset.chart)];
  const svg = figure.querySelector("svg");
  const said = figure.querySelector(".said");
  if (!svg || !chart.axes.length) return;
  const [low, high, start, end, log] = chart.axes[0];
  const scale = log ? Math.log10 : (v) => v;
  const at = (x) => start + (scale(x) - scale(low)) / (scale(high) - scale(low)) * (end - start);
  const cursor = svg.querySelector(".cursor");
  const xs = [...new Set(chart.series.flatMap((s) => s.x))];
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const near = xs.reduce((a, b) => Math.abs(at(b) - x) < Math.abs(at(a) - x) ? b : a);
    cursor.setAttribute("x1", at(near));
    cursor.setAttribute("x2", at(near));
    cursor.classList.add("now");
    const values = chart.series.filter((s) => s.x.includes(near)).map(
      (s) => (chart.series.length > 1 ? s.name + " " : "") + shown(s.y[s.x.indexOf(near)]));
    said.textContent = chart.x.split("   ")[0] + " " + shown(near) + ": " + values.join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.classList.remove("now");
    said.textContent = "";
  });
});

const large = document.getElementById("large");
if (large) {
  const strip = [...document.querySelectorAll(".strip figure")];
  const slider = document.getElementById("slider");
  const label = document.getElementById("slider-label");
  const show = (k) => {
    slider.value = k;
    large.src = strip[k].querySelector("img").src;
    large.alt = label.textContent = strip[k].querySelector("figcaption").textContent;
    strip.forEach((one, i) => one.classList.toggle("now", i === k));
  };
  slider.addEventListener("input", () => show(Number(slider.value)));
  strip.forEach((one, i) => one.addEventListener("click", () => show(i)));
  document.getElementById("viewer").hidden = false;
  show(strip.length - 1);
}

document.querySelectorAll("pre.command").forEach((line) => line.addEventListener("click", () => {
  getSelection().selectAllChildren(line);
  if (navigator.clipboard) navigator.clipboard.writeText(line.textContent).catch(() => {});
}));
