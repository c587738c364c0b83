// Elements, numbers as text, scales and axes: what the charts are drawn with.

// A name, not an address: nothing is loaded from it.
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Makes an element; text goes in as text, never as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(SVG_NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** A number in a few significant digits; "n/a" where there is none. */
function show(value, digits = 3) {
  if (value === null || value === undefined) return "n/a";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(digits - 1);
  if (size >= 10 ** digits) return Math.round(value).toLocaleString("en");
  const least = Number.isInteger(value) ? 1 : digits;
  return value.toLocaleString("en", { minimumSignificantDigits: least, maximumSignificantDigits: digits });
}

function percent(share) {
  return share === null ? "n/a" : `${show(100 * share)} %`;
}

function linear(low, high, start, end) {
  const span = high - low || 1;
  return { at: (v) => start + ((v - low) / span) * (end - start), ticks: (n) => steps(low, high, n) };
}

function logarithmic(low, high, start, end) {
  const inner = linear(Math.log10(low), Math.log10(high), start, end);
  const ticks = (n) => {
    const decades = [];
    for (let e = Math.ceil(Math.log10(low)); 10 ** e <= high * 1.0001; e += 1) decades.push(10 ** e);
    const skip = Math.ceil(decades.length / Math.max(n, 2));
    return decades.length > 1 ? decades.filter((_, i) => i % skip === 0) : steps(low, high, n);
  };
  return { at: (v) => inner.at(Math.log10(v)), ticks };
}

/** About `count` round numbers (1, 2 or 5 times a power of ten apart) between two. */
function steps(low, high, count) {
  const rough = (high - low || 1) / Math.max(count, 1);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5].find((m) => m * unit >= rough) || 10);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function tick(value) {
  const size = Math.abs(value);
  if (size >= 1e4) return value.toLocaleString("en", { notation: "compact" });
  if (size !== 0 && size < 1e-3) return value.toExponential(0);
  return value.toLocaleString("en", { maximumFractionDigits: 6 });
}

/** Keeps a chart drawn for its width. `paint(svg, width)` returns the height it used. */
function chart(label, paint) {
  const svg = document.createElementNS(SVG_NAMESPACE, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const holder = make("div", { class: "holder" }, svg);
  let drawn = 0;
  new ResizeObserver(() => {
    const width = Math.round(holder.clientWidth);
    if (!width || width === drawn) return;
    drawn = width;
    svg.replaceChildren();
    const height = paint(svg, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }).observe(holder);
  return holder;
}

/** Horizontal grid, base line and the names of both axes. */
function axes(svg, box, y, yLabel, xLabel) {
  const ticks = y.ticks(Math.max(2, Math.floor((box.bottom - box.top) / 32)));
  for (const value of ticks) {
    const at = y.at(value);
    draw(svg, "line", { class: "grid", x1: box.left, x2: box.right, y1: at, y2: at });
    draw(svg, "text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, tick(value));
  }
  const base = { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom };
  draw(svg, "line", { class: "axis", ...base });
  const middle = (box.left + box.right) / 2;
  draw(svg, "text", { x: middle, y: box.label, "text-anchor": "middle" }, xLabel);
  if (yLabel) draw(svg, "text", { x: 0, y: 11 }, yLabel);
}

function numericTicks(svg, box, x, count) {
  for (const value of x.ticks(count)) {
    const at = { x1: x.at(value), x2: x.at(value), y1: box.bottom, y2: box.bottom + 4 };
    draw(svg, "line", { class: "axis", ...at });
    const place = { x: x.at(value), y: box.bottom + 17, "text-anchor": "middle" };
    draw(svg, "text", place, tick(value));
  }
}

/** Layer names under the axis: level, thinned out, or slanted, as they fit. Returns the depth. */
function layerTicks(svg, box, x, names, band) {
  const short = (name) => (name.length > 14 ? `${name.slice(0, 6)}…${name.slice(-7)}` : name);
  const longest = Math.max(...names.map((name) => short(name).length)) * 6.8;
  const slanted = longest + 6 > band && longest > 30;
  const every = Math.max(1, Math.ceil((slanted ? 16 : longest + 6) / band));
  const depth = slanted ? 10 + longest * 0.72 : 18;
  if (svg) {
    names.forEach((name, i) => {
      if (i % every) return;
      const place = { x: x(i), y: box.bottom + 17, "text-anchor": "middle" };
      if (slanted) {
        place["text-anchor"] = "end";
        place.transform = `rotate(-45 ${x(i) + 2} ${box.bottom + 13})`;
      }
      const label = draw(svg, "text", place, short(name));
      if (short(name) !== name) draw(label, "title", {}, name);
    });
  }
  return depth;
}
