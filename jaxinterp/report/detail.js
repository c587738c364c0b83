// One feature: its numbers, its histogram, the tokens it writes, the contexts it reads.

function numbersPart(feature) {
  const numbers = make("dl", { class: "numbers" });
  for (const [name, value] of [
    ["active on", `${percent(feature.frequency)} of tokens`],
    ["peak activation", show(feature.peak)],
    ["mean when active", show(feature.mean_active)],
  ]) numbers.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  const top = make("div", { class: "detail-top" });
  top.append(section("Activations", histogram(feature), "histogram"));
  top.append(section("Tokens it promotes", logits(feature.promoted, false)));
  top.append(section("Tokens it suppresses", logits(feature.suppressed, true)));
  return [numbers, top];
}

function section(title, content, kind = "") {
  return make("div", { class: kind }, make("h4", {}, title), content);
}

function histogram({ histogram: { edges, counts } }) {
  if (!counts.some((count) => count > 0)) return make("p", { class: "empty" }, "Never active.");
  return histogramChart(edges, counts);
}

function logits(pairs, low) {
  if (!pairs.length) return make("p", { class: "empty" }, "None given.");
  const most = Math.max(...pairs.map(([, logit]) => Math.abs(logit))) || 1;
  const body = make("tbody");
  for (const [token, logit] of pairs) {
    const gauge = make("span", { class: low ? "gauge low" : "gauge" });
    gauge.style.width = `${(100 * Math.abs(logit)) / most}%`;
    const value = logit === null ? "n/a" : `${logit > 0 ? "+" : ""}${logit.toFixed(2)}`;
    const cells = [make("td", { title: token }, ...visible(token, true)), make("td", {}, gauge)];
    body.append(make("tr", {}, ...cells, make("td", {}, value)));
  }
  const titles = ["token", "", "logit"].map((name) => make("th", { scope: "col" }, name));
  return make("table", { class: "logits" }, make("thead", {}, make("tr", {}, ...titles)), body);
}

/** The contexts, with a scale of the shades; `view` says what to mark and whether lines break. */
function contextsPart(contexts, peak, view) {
  const title = make("h4", {}, `Top contexts (${contexts.length})`);
  if (!contexts.length) return [title, make("p", { class: "empty" }, "No context is given.")];
  const box = make("input", { type: "checkbox", id: "breaks" });
  box.checked = Boolean(view.lineBreaks);
  const head = make("div", { class: "contexts-head" }, title);
  head.append(make("label", {}, box, "Keep line breaks"));
  const scale = make("p", { class: "scale unit" }, "activation 0");
  for (const level of [0.1, 0.25, 0.5, 0.75, 1]) {
    const swatch = make("span");
    swatch.style.setProperty("--share", level);
    scale.append(swatch);
  }
  scale.append(`${show(peak)} (peak)`);
  const list = make("ol", { class: "contexts" });
  const fill = () => list.replaceChildren(...contexts.map((context, i) =>
    contextElement(context, i + 1, peak, view.query, view.lineBreaks)));
  box.addEventListener("change", () => {
    view.lineBreaks = box.checked;
    fill();
  });
  fill();
  return [head, scale, list];
}
