"use strict";
// The run's page: curves and states, fetched anew every two seconds while the run goes on.

const POLL_MS = 2000;
const POINTS = 800; // per curve; the portal keeps the extremes of each bucket
const COLOURS = ["#0d9488", "#d97706", "#4f6bed", "#c2410c", "#7c3aed", "#0891b2", "#be185d", "#65a30d"];

const page = document.getElementById("run");
const base = `/collection/training-runs/${page.dataset.run}`;
const curves = new Map(); // key -> {count, figure, plot, ...}

function show(number) {
  if (number === null || number === undefined) return "–";
  if (number === 0) return "0";
  const size = Math.abs(number);
  if (size >= 1e6 || size < 1e-3) return number.toExponential(3);
  return String(Number(number.toPrecision(5)));
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// ------------------------------------------------------------------------------------------------------------ curves

function figureFor(key) {
  const figure = element("figure", "curve");
  const caption = element("figcaption");
  caption.append(element("span", "key", key), element("span", "last", ""));
  const plot = element("div", "plot");
  const note = element("p", "note");
  note.hidden = true;
  figure.append(caption, plot, note);
  const before = [...curves.keys()].sort().find((other) => other > key);
  document.getElementById("curves").insertBefore(figure, before ? curves.get(before).figure : null);
  return figure;
}

// One table [steps, values] for each rank, steps ascending; what is not finite is a hole in the line.
function tables(curve) {
  const ranks = [...new Set(curve.ranks)].sort((a, b) => a - b);
  return {
    ranks,
    tables: ranks.map((rank) => {
      const points = [];
      curve.steps.forEach((step, index) => {
        if (curve.ranks[index] === rank) points.push([step, curve.values[index]]);
      });
      points.sort((a, b) => a[0] - b[0]);
      const last = new Map(points); // one value per step: the last one logged
      return [[...last.keys()], [...last.values()].map((value) => (typeof value === "number" ? value : null))];
    }),
  };
}

function draw(entry) {
  const { ranks, tables: parts } = tables(entry.curve);
  const data = parts.length === 1 ? parts[0] : parts.length ? uPlot.join(parts) : [[], []];
  const shape = ranks.join(",");
  if (entry.plot && entry.shape === shape) {
    entry.plot.setData(data);
    return;
  }
  if (entry.plot) entry.plot.destroy();
  const holder = entry.figure.querySelector(".plot");
  const axis = {
    stroke: colour("--axis"),
    grid: { stroke: colour("--grid"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
  };
  const single = data[0].length === 1;
  entry.shape = shape;
  entry.plot = new uPlot(
    {
      width: holder.clientWidth || 320,
      height: 220,
      padding: [8, 8, 0, 0],
      cursor: { drag: { x: true, y: false }, points: { size: 7 } },
      legend: { show: ranks.length > 1 },
      scales: { x: { time: false } },
      axes: [
        { ...axis, size: 30, values: (_, splits) => splits.map((step) => (Number.isInteger(step) ? show(step) : "")) },
        { ...axis, size: 58, values: (_, splits) => splits.map(show) },
      ],
      series: [
        { label: "step" },
        ...(ranks.length ? ranks : [0]).map((rank, index) => ({
          label: `rank ${rank}`,
          stroke: COLOURS[index % COLOURS.length],
          width: 1.75,
          spanGaps: ranks.length > 1,
          points: { show: single },
          value: (_, value) => show(value),
        })),
      ],
      hooks: { setCursor: [(plot) => caption(entry, plot.cursor.idx)] },
    },
    data,
    holder,
  );
}

// The last value, or the one under the pointer.
function caption(entry, index) {
  const last = entry.figure.querySelector(".last");
  const { data } = entry.plot;
  if (index !== null && index !== undefined && data.length === 2) {
    last.textContent = `${show(data[1][index])} at step ${data[0][index]}`;
  } else {
    const { values, steps } = entry.curve;
    const value = values[values.length - 1];
    last.textContent = values.length ? `${typeof value === "number" ? show(value) : value} at step ${steps[steps.length - 1]}` : "";
  }
}

function notes(entry) {
  const { curve, figure } = entry;
  const said = curve.gaps.map(
    (gap) => `Missing (${gap.reason}): log calls ${gap.first} to ${gap.last} of stream ${gap.stream.slice(0, 8)}.`,
  );
  const left = curve.tombstones.reduce((sum, stone) => sum + stone.count, 0);
  if (left) said.push(`${left} metrics were left out by the client (${[...new Set(curve.tombstones.map((s) => s.reason))].join(", ")}).`);
  const odd = curve.values.filter((value) => typeof value !== "number");
  if (odd.length) said.push(`Not drawn: ${[...new Set(odd)].join(", ")}.`);
  const note = figure.querySelector(".note");
  note.textContent = said.join(" ");
  note.hidden = !said.length;
}

async function updateCurves() {
  const keys = await get(`${base}/metric-keys`);
  document.getElementById("no-curves").hidden = keys.length > 0;
  for (const { key, count } of keys) {
    const known = curves.get(key);
    if (known && known.count === count) continue;
    const curve = await get(`${base}/metrics?key=${encodeURIComponent(key)}&points=${POINTS}`);
    const entry = known ?? { figure: figureFor(key), plot: null };
    Object.assign(entry, { count, curve });
    curves.set(key, entry);
    draw(entry);
    caption(entry, null);
    notes(entry);
    entry.figure.setAttribute("aria-label", `${key}: ${count} points`);
  }
}

// ------------------------------------------------------------------------------------------------------------ states

function bytes(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return unit ? `${size.toFixed(1)} ${units[unit]}` : `${size} B`;
}

function stateRow(state) {
  const row = element("tr");
  row.dataset.state = state.uuid;
  const cell = (text, className) => row.appendChild(element("td", className, text));
  const number = cell(String(state.sequence_num), "number");
  if (state.final_state) number.append(" ", element("span", "muted small", "final"));
  cell(state.step === null ? "–" : String(state.step), "number");
  cell(state.format || state.framework || "–");
  cell(state.size === null ? "–" : bytes(state.size), "number");
  const digest = element("code", "digest", state.sha256 ? `${state.sha256.slice(0, 16)}…` : "–");
  digest.title = state.sha256 ?? "";
  cell("").append(digest);
  const time = element("time");
  time.dateTime = new Date(state.created_ns / 1e6).toISOString();
  cell("").append(time);
  localTime(time);
  const origin = element("a", "", "its data");
  origin.href = "#came";
  cell("").append(origin);
  const link = element("a", "", "Download");
  link.href = `/collection/model-states/${state.uuid}/content`;
  link.download = "";
  cell("").append(link);
  return row;
}

async function updateStates() {
  const states = await get(`/collection/model-states?training_run=${page.dataset.run}`);
  const table = document.getElementById("states");
  const body = table.tBodies[0];
  const known = new Set([...body.rows].map((row) => row.dataset.state));
  for (const state of states) if (!known.has(state.uuid)) body.prepend(stateRow(state));
  table.hidden = body.rows.length === 0;
  document.getElementById("no-states").hidden = body.rows.length > 0;
}

// ------------------------------------------------------------------------------------------------------------- loop

function showStatus(status) {
  page.dataset.status = status;
  const pill = element("span", `pill ${status}`, status);
  document.getElementById("status").replaceChildren(...(status === "unknown" ? [] : [pill]));
}

async function update() {
  const problem = document.getElementById("problem");
  try {
    const run = await get(base); // before the rest, so that what came before the end is seen after it
    await updateCurves();
    await updateStates();
    if (run.status !== page.dataset.status) showStatus(run.status);
    problem.hidden = true;
  } catch (error) {
    problem.textContent = `The portal does not answer as it should (${error.message}). Trying again.`;
    problem.hidden = false;
  }
  if (page.dataset.status === "running" || !problem.hidden) setTimeout(update, POLL_MS);
}

new ResizeObserver(() => {
  for (const { plot, figure } of curves.values()) {
    const width = figure.querySelector(".plot").clientWidth;
    if (plot && width && width !== plot.width) plot.setSize({ width, height: 220 });
  }
}).observe(document.getElementById("curves"));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const entry of curves.values()) {
    entry.shape = null;
    draw(entry);
  }
});

update();
