// The charts, as inline SVG: drawn for the width they have, and again when it changes.

function dot(svg, kind, x, y) {
  if (kind === "mle") {
    return draw(svg, "rect", { class: "dot mle", x: x - 3.5, y: y - 3.5, width: 7, height: 7 });
  }
  return draw(svg, "circle", { class: "dot two-nn", cx: x, cy: y, r: 4 });
}

/** Intrinsic dimension by layer, two estimators, bars of one standard error. */
function profileChart(profile, { names, axis }) {
  const kinds = [
    ["two-nn", "TwoNN", "two_nn", "two_nn_error", -4],
    ["mle", "MLE", "mle", "mle_error", 4],
  ];
  const tops = profile.flatMap((layer) =>
    kinds.map((kind) => (layer[kind[2]] === null ? 0 : layer[kind[2]] + (layer[kind[3]] || 0))));
  const label = "Intrinsic dimension by layer; the table has the numbers";
  return chart(label, (svg, width) => {
    const band = (width - 50) / names.length;
    const box = { left: 42, right: width - 8, top: 40, bottom: 240 };
    box.label = box.bottom + layerTicks(null, box, null, names, band) + 18;
    const y = linear(0, Math.max(...tops) * 1.05 || 1, box.bottom, box.top);
    const x = (i) => box.left + (i + 0.5) * ((box.right - box.left) / names.length);
    axes(svg, box, y, "dimension", axis);
    layerTicks(svg, box, x, names, band);
    kinds.forEach(([kind, name, value, error, shift], place) => {
      let path = "";
      profile.forEach((layer, i) => {
        if (layer[value] === null) { path += " "; return; }
        const start = i === 0 || profile[i - 1][value] === null;
        path += `${start ? "M" : "L"}${x(i) + shift} ${y.at(layer[value])}`;
      });
      draw(svg, "path", { class: `line ${kind}`, d: path.trim() || "M0 0" });
      profile.forEach((layer, i) => {
        if (layer[value] === null) return;
        const at = x(i) + shift;
        if (layer[error] !== null) {
          const [low, high] = [layer[value] - layer[error], layer[value] + layer[error]];
          const ends = [y.at(Math.max(low, 0)), y.at(high)];
          const lines = [[at, at, ...ends], ...ends.map((e) => [at - 4, at + 4, e, e])];
          for (const [x1, x2, y1, y2] of lines) {
            draw(svg, "line", { class: `whisker ${kind}`, x1, x2, y1, y2 });
          }
        }
        const title = `${name}, ${layer.layer_name}: ${show(layer[value])} ± ${show(layer[error])}`;
        draw(dot(svg, kind, at, y.at(layer[value])), "title", {}, title);
      });
      const left = box.right - 128 + place * 76;
      draw(svg, "line", { class: `line ${kind}`, x1: left, x2: left + 20, y1: 8, y2: 8 });
      dot(svg, kind, left + 10, 8);
      draw(svg, "text", { class: "legend", x: left + 26, y: 12 }, name);
    });
    return box.label + 6;
  });
}

/** One training curve; pointing at it reads a value through `onPoint(index or null)`. */
function curveChart(name, step, values, isLog, onPoint) {
  const known = values.filter((v) => v !== null);
  return chart(`${name} over training steps`, (svg, width) => {
    const box = { left: 46, right: width - 12, top: 10, bottom: 150, label: 188 };
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const pad = isLog || high === low ? Math.abs(high) * 0.05 || 1 : (high - low) * 0.05;
    const y = isLog
      ? logarithmic(low, high, box.bottom - 4, box.top)
      : linear(low === high && low !== 0 ? low - pad : low, high + (low === high ? pad : 0), box.bottom - 4, box.top);
    const x = linear(step[0], step.at(-1), box.left, box.right);
    axes(svg, box, y, "", "step");
    numericTicks(svg, box, x, Math.floor(width / 80));
    const path = [];
    values.forEach((v, i) => {
      if (v !== null) path.push(`${i && values[i - 1] !== null ? "L" : "M"}${x.at(step[i])} ${y.at(v)}`);
    });
    draw(svg, "path", { class: "line two-nn", d: path.join("") || "M0 0" });
    if (known.length === 1) {
      const only = values.findIndex((v) => v !== null);
      dot(svg, "two-nn", x.at(step[only]), y.at(known[0]));
    }
    const cursor = draw(svg, "line", { class: "cursor", y1: box.top, y2: box.bottom });
    cursor.setAttribute("visibility", "hidden");
    svg.onpointermove = (event) => {
      const at = event.clientX - svg.getBoundingClientRect().left;
      const near = step.reduce((best, s, i) =>
        (Math.abs(x.at(s) - at) < Math.abs(x.at(step[best]) - at) ? i : best), 0);
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x.at(step[near]));
      cursor.setAttribute("visibility", "visible");
      onPoint(near);
    };
    svg.onpointerleave = () => {
      cursor.setAttribute("visibility", "hidden");
      onPoint(null);
    };
    return box.label + 6;
  });
}

/** Counts of non-zero activations; a logarithmic count axis where the counts ask for it. */
function histogramChart(edges, counts) {
  const total = counts.reduce((a, b) => a + b, 0);
  const filled = counts.filter((c) => c > 0);
  const isLog = Math.max(...filled) > 100 * Math.min(...filled);
  const label = `Histogram of ${total.toLocaleString("en")} non-zero activations`;
  return chart(label, (svg, width) => {
    const box = { left: 46, right: width - 12, top: 24, bottom: 150, label: 188 };
    const top = Math.max(...counts);
    const y = isLog
      ? logarithmic(0.5, top, box.bottom, box.top)
      : linear(0, top, box.bottom, box.top);
    const x = linear(edges[0], edges.at(-1), box.left, box.right);
    axes(svg, box, y, isLog ? "tokens (log)" : "tokens", "activation");
    counts.forEach((count, i) => {
      if (!count) return;
      const [left, right] = [x.at(edges[i]), x.at(edges[i + 1])];
      const size = { x: left, width: Math.max(right - left - 1, 0.5) };
      const place = { y: y.at(count), height: box.bottom - y.at(count) };
      const bar = draw(svg, "rect", { class: "bar", ...size, ...place });
      const range = `${show(edges[i])} to ${show(edges[i + 1])}`;
      draw(bar, "title", {}, `${range}: ${count.toLocaleString("en")} tokens`);
    });
    numericTicks(svg, box, x, Math.floor(width / 80));
    return box.label + 6;
  });
}

/** The training curves as small panels that read the same step when one is pointed at. */
function trainingPanels({ step, series, logarithmic: logNames }) {
  const names = Object.keys(series).filter((name) => series[name].some((v) => v !== null));
  if (!names.length) {
    return make("p", { class: "empty" }, "No training curve was recorded.");
  }
  const readouts = new Map();
  const read = (at) => readouts.forEach((element, name) => {
    const last = series[name].findLast((v) => v !== null);
    element.textContent = at === null
      ? `last ${show(last)}`
      : `step ${step[at].toLocaleString("en")}: ${show(series[name][at])}`;
  });
  const panels = make("div", { class: "panels" });
  for (const name of names) {
    const isLog = logNames.includes(name);
    readouts.set(name, make("span", { class: "readout" }));
    const title = make("h3", {}, isLog ? `${name} (log)` : name);
    const head = make("div", { class: "panel-head" }, title, readouts.get(name));
    panels.append(make("div", { class: "panel" }, head, curveChart(name, step, series[name], isLog, read)));
  }
  read(null);
  return panels;
}
