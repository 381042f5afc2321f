// Draws uPlot from a JSON block: <div class="chart" data-chart="ID"></div> <script type="application/json" id="ID">.
// {"x": [epoch seconds], "series": [{"label", "values", "colour": "--bar", "points": true, "dash": false, "band": [i, j]}], "marks": [{"x", "label"}], "range": [0, 1], "legend": false}
import { local } from "./times.js";

const DAY_S = 86_400;

// Marks of time: days alone, or a clock with the day below it where that is another than that of the mark before.
function ticks(_, splits, __, ___, step) {
  const written = splits.map((at) => local(at * 1000));
  if (step >= DAY_S) return written.map((text) => text.slice(0, 10));
  const clock = step >= 60 ? 16 : 19;
  return written.map((text, i) => text.slice(11, clock) + (text.slice(0, 10) === written[i - 1]?.slice(0, 10) ? "" : `\n${text.slice(0, 10)}`));
}

export function draw(box) {
  const said = JSON.parse(document.getElementById(box.dataset.chart).textContent);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") }, font: "11px system-ui" };
  const lone = said.x.length === 1; // uPlot would show years around it, and no line
  const series = said.series.map((one) => ({
    label: one.label,
    stroke: colour(one.colour ?? "--bar"),
    width: one.points ? 0 : 1.8,
    dash: one.dash ? [6, 4] : undefined,
    points: { show: Boolean(one.points) || lone, size: 6, fill: colour(one.colour ?? "--bar") },
    spanGaps: !one.points,
    value: (_, value) => (value == null ? "–" : Number(value.toPrecision(4)).toLocaleString()),
  }));
  const bands = said.series.flatMap((one) => (one.band ? [{ series: one.band, fill: colour("--band") }] : []));
  const often = Map.groupBy(said.marks ?? [], (mark) => mark.label);
  const marks = (plot) => {
    const ends = Array.from({ length: 4 }, () => []); // of the texts in each row, from where to where
    // What is rare first: where texts have no room, an alert is told before the many labels; the table has all.
    for (const mark of (said.marks ?? []).toSorted((a, b) => often.get(a.label).length - often.get(b.label).length)) {
      const x = Math.round(plot.valToPos(mark.x, "x", true));
      if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
      plot.ctx.save();
      plot.ctx.strokeStyle = colour("--bar-2");
      plot.ctx.fillStyle = colour("--soft");
      plot.ctx.setLineDash([4, 4]);
      plot.ctx.beginPath();
      plot.ctx.moveTo(x, plot.bbox.top);
      plot.ctx.lineTo(x, plot.bbox.top + plot.bbox.height);
      plot.ctx.stroke();
      // To the left of its line where there is no room to the right of it.
      const left = x > plot.bbox.left + plot.bbox.width * 0.7;
      plot.ctx.textAlign = left ? "right" : "left";
      const wide = plot.ctx.measureText(mark.label).width + 8;
      const [from, to] = left ? [x - wide, x] : [x, x + wide];
      const row = ends.findIndex((taken) => taken.every(([a, b]) => to <= a || b <= from));
      if (row >= 0) {
        ends[row].push([from, to]);
        plot.ctx.fillText(mark.label, x + (left ? -4 : 4), plot.bbox.top + (12 + 13 * row) * devicePixelRatio);
      }
      plot.ctx.restore();
    }
  };
  const height = Number(box.dataset.height ?? 200);
  const around = (_, low, high) => (lone ? [said.x[0] - 1800, said.x[0] + 1800] : [low, high]);
  const options = {
    width: Math.max(box.clientWidth, 200), height, series: [{ value: (_, at) => (at == null ? "–" : local(at * 1000)) }, ...series], bands, axes: [{ ...axis, space: 80, values: ticks }, { ...axis, size: 52 }],
    scales: { x: { range: around }, y: said.range ? { range: said.range } : {} }, cursor: { y: false }, legend: { show: said.legend !== false }, hooks: { draw: [marks] },
  };
  box.replaceChildren();
  const plot = new uPlot(options, [said.x, ...said.series.map((one) => one.values)], box);
  new ResizeObserver(() => plot.setSize({ width: Math.max(box.clientWidth, 200), height })).observe(box);
  plot.root.setAttribute("aria-hidden", "true"); // the table beside it says the same
}

export function drawAll(root = document) { for (const box of root.querySelectorAll("[data-chart]:empty")) draw(box); }

if (document.querySelector("[data-chart]") || document.body) {
  drawAll();
  document.addEventListener("htmx:after:swap", () => drawAll());
  new MutationObserver(() => { for (const box of document.querySelectorAll("[data-chart]")) draw(box); })
    .observe(document.documentElement, { attributeFilter: ["data-theme"] });
}
