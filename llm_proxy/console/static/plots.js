// Draws the numbers of a table as stacked steps over time: rows are times, columns are series. The table stays:
// the plot adds nothing to it. Colours are the page's own and follow its light and dark.
"use strict";
(() => {
  const SERIES_COLOURS = 8;
  const HEIGHT = 280;

  const readTable = (table) => {
    const rows = [...table.tBodies[0].rows];
    const times = rows.map((row) => Date.parse(row.querySelector("time").dateTime) / 1000);
    const names = [...table.querySelectorAll("th[data-series]")].map((cell) => cell.textContent);
    const values = names.map((_, at) => rows.map((row) => Number(row.cells[at + 1].dataset.value)));
    return { times, names, values, rows: rows.map((row) => row.cells[0].textContent) };
  };

  const stacked = (values, length) => {
    const sums = new Array(length).fill(0);
    return values.map((series) => series.map((value, at) => (sums[at] += value)));
  };

  const draw = (figure) => {
    const { times, names, values, rows } = readTable(document.querySelector(figure.dataset.plot));
    if (times.length < 2) {
      return;
    }
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const step = times[times.length - 1] - times[times.length - 2];
    const ends = [...times, times[times.length - 1] + step];
    const sums = stacked(values, times.length).map((series) => [...series, series[series.length - 1]]);
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const paths = uPlot.paths.stepped({ align: 1 });
    const series = names.map((label, at) => ({
      label,
      stroke: colour(`--series-${(at % SERIES_COLOURS) + 1}`),
      fill: colour(`--series-${(at % SERIES_COLOURS) + 1}`) + "99",
      width: 1,
      paths,
      points: { show: false },
      value: (_, sum, seriesAt, place) =>
        place === null ? "" : String(values[names.length - seriesAt][Math.min(place, times.length - 1)]),
    }));
    // The highest sum comes first; each is filled down to the next one.
    figure.hidden = false;
    figure.replaceChildren();
    const zone = figure.dataset.zone === "UTC" ? "Etc/UTC" : figure.dataset.zone;
    const options = {
      tzDate: (at) => {
        try {
          return uPlot.tzDate(new Date(at * 1000), zone);
        } catch {
          return new Date(at * 1000); // an offset is no zone that browsers know
        }
      },
      width: figure.clientWidth - 32,
      height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      legend: { live: true },
      series: [{ value: (_, at) => (at === null ? "" : rows[times.indexOf(at)] ?? "") }, ...series.reverse()],
      axes: [axis, { ...axis, size: 70 }],
      bands: names.slice(1).map((_, at) => ({ series: [at + 1, at + 2] })),
      scales: { y: { range: (_, low, high) => [0, high * 1.05 || 1] } },
    };
    figure.plot = new uPlot(options, [ends, ...sums.reverse()], figure);
    figure.values = { times, names, values };
  };

  const figures = [...document.querySelectorAll("[data-plot]")];
  const drawAll = () => figures.forEach(draw);
  drawAll();
  window.addEventListener("resize", () =>
    figures.forEach((figure) => figure.plot?.setSize({ width: figure.clientWidth - 32, height: HEIGHT })),
  );
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
