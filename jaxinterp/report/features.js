// The list of features: search, sort, open one. Its address is #feature-<number>.

const CHUNK = 60;
const NAMES = { peak: "peak", frequency: "active on", mean_active: "mean", index: "number" };

const data = JSON.parse(document.getElementById("data").textContent);
const part = (id) => document.getElementById(id);
const view = { query: "", order: "peak", largestFirst: true, found: [], drawn: 0, open: null };

/** Contexts come as positions in one vocabulary and their non-zero activations. */
function contextsOf(feature) {
  feature.contexts ??= feature.packed.map(([document, focus, ids, active]) => {
    const activations = new Array(ids.length).fill(0);
    for (let i = 0; i < active.length; i += 2) activations[active[i]] = active[i + 1];
    return { document, focus, tokens: ids.map((id) => data.vocabulary[id]), activations };
  });
  return feature.contexts;
}

/** The contexts as text to search in. */
function textsOf(feature) {
  data.folded ??= data.vocabulary.map(folded);
  feature.texts ??= feature.packed.map(([, , ids]) =>
    ids.map((id) => data.folded[id]).join("").replace(/ {2,}/g, " "));
  return feature.texts;
}

/** Makes those texts while nobody waits, so that the first search is quick too. */
function prepareSearch(next = 0) {
  window.requestIdleCallback?.((deadline) => {
    let at = next;
    while (at < data.features.length && deadline.timeRemaining() > 2) textsOf(data.features[at++]);
    if (at < data.features.length) prepareSearch(at);
  });
}

function matches(feature, query) {
  if (!query) return true;
  const number = query.trim().replace(/^(feature )?#?/, "");
  if (/^\d+$/.test(number) && String(feature.index) === number) return true;
  const tokens = feature.promoted.map(([token]) => folded(token));
  if (tokens.some((token) => token.includes(query) || token.trim() === query.trim())) return true;
  return textsOf(feature).some((text) => text.includes(query));
}

/** Finds and sorts what is asked for, and starts the list anew. */
function refresh() {
  const { order, largestFirst } = view;
  const key = (feature) => feature[order] ?? -Infinity;
  const compare = (a, b) => (key(a) - key(b)) * (largestFirst ? -1 : 1) || a.index - b.index;
  view.found = data.features.filter((feature) => matches(feature, view.query)).sort(compare);
  const number = Number(view.query.replace(/^(feature )?#?/, "") || NaN);
  const exact = view.found.findIndex((feature) => feature.index === number);
  if (exact > 0) view.found.unshift(...view.found.splice(exact, 1));
  view.drawn = 0;
  part("list").replaceChildren();
  part("scroller").scrollTop = 0;
  drawRows();
  const [found, all] = [view.found.length, data.features.length];
  const noun = all === 1 ? "feature" : "features";
  const every = `${found === all ? "" : `${show(found)} of `}${show(all)} ${noun}`;
  part("scroller").hidden = !found;
  const status = part("status");
  status.replaceChildren(all ? every : "This report has no features.");
  if (all && !found) {
    const clear = make("button", { type: "button" }, "Clear the search");
    clear.addEventListener("click", () => search(""));
    status.replaceChildren(make("p", {}, `No feature matches “${part("query").value}”.`), clear);
  }
  drawDetail();
}

function search(text) {
  part("query").value = text;
  view.query = folded(text.trim() ? text : "");
  refresh();
  part("query").focus();
}

/** Adds the next rows; the list is only drawn as far as it has been scrolled. */
function drawRows(upTo = view.drawn + CHUNK) {
  const rows = view.found.slice(view.drawn, upTo).map(rowElement);
  part("list").append(...rows);
  view.drawn += rows.length;
  part("more").hidden = view.drawn >= view.found.length;
  markRow();
}

function rowElement(feature) {
  const second = view.order === "index" ? "peak" : view.order;
  const value = second === "frequency" ? percent(feature.frequency) : show(feature[second]);
  const head = make("span", { class: "row-head" });
  head.append(make("span", { class: "row-number" }, `Feature ${feature.index}`));
  head.append(make("span", { class: "unit" }, `${NAMES[second]} ${value}`));
  const row = make("button", { type: "button", class: "row", "data-index": feature.index }, head);
  const holds = (text) => view.query && text.includes(view.query);
  const context = contextsOf(feature)[Math.max(textsOf(feature).findIndex(holds), 0)];
  row.append(context
    ? snippet(context, feature.peak, view.query)
    : make("span", { class: "snippet empty" }, "never active on held-out text"));
  row.addEventListener("click", () => openFeature(feature.index));
  return make("li", {}, row);
}

/** Shows which row is open, and makes it the list's one tab stop. */
function markRow() {
  const rows = [...part("list").querySelectorAll(".row")];
  const shown = shownFeature();
  const current = rows.find((row) => shown && Number(row.dataset.index) === shown.index);
  for (const row of rows) {
    row.removeAttribute("aria-current");
    row.setAttribute("tabindex", row === (current || rows[0]) ? "0" : "-1");
  }
  current?.setAttribute("aria-current", "true");
}

function shownFeature() {
  return data.features.find((f) => f.index === view.open) || view.found[0] || null;
}

function openFeature(index) {
  const hash = `#feature-${index}`;
  if (location.hash === hash) followAddress();
  else location.hash = hash;
}

/** Opens the feature that the address names, if it names one; without an event, on arrival. */
function followAddress(event) {
  const named = /^#feature-(\d+)$/.exec(location.hash);
  const index = named ? Number(named[1]) : null;
  const known = data.features.some((feature) => feature.index === index);
  const before = view.open;
  view.open = known ? index : null;
  part("browser").classList.toggle("open", known);
  drawDetail();
  if (named && !known) {
    part("status").textContent = `This report has no feature ${index}.`;
    part("browser").scrollIntoView();
  } else if (known) {
    const narrow = part("index").getClientRects().length === 0;
    const detail = part("detail");
    if (narrow && !detail.contains(document.activeElement)) part("opened").focus({ preventScroll: true });
    if (!event || narrow || detail.getBoundingClientRect().top < 0) detail.scrollIntoView();
    if (!event) revealRow(index);
  } else if (before !== null) revealRow(before, true);
}

function revealRow(index, focus = false) {
  const place = view.found.findIndex((feature) => feature.index === index);
  if (place < 0) return;
  if (place >= view.drawn) drawRows(place + CHUNK);
  const row = part("list").children[place].firstChild;
  if (part("index").getClientRects().length) {
    const { scrollTop } = document.documentElement;
    row.scrollIntoView({ block: "center", behavior: "instant" });
    // Beside the open feature only the list itself should move.
    if (!focus) document.documentElement.scrollTop = scrollTop;
  }
  if (focus) row.focus({ preventScroll: true });
}

function drawDetail() {
  closeTip();
  const feature = shownFeature();
  const detail = part("detail");
  detail.hidden = !feature;
  markRow();
  if (!feature) return;
  const held = detail.contains(document.activeElement) && document.activeElement.dataset.step;
  const place = view.found.indexOf(feature);
  const heading = make("h3", { id: "opened", tabindex: "-1" }, `Feature ${feature.index}`);
  const back = make("button", { type: "button", class: "back" }, "Back to the list");
  back.addEventListener("click", () => { location.hash = "#features"; });
  const [previous, next] = [["Previous", place - 1], ["Next", place + 1]].map(([name, to]) => {
    const button = make("button", { type: "button", "data-step": name }, name);
    button.disabled = place < 0 || !view.found[to];
    button.addEventListener("click", () => {
      openFeature(view.found[to].index);
      revealRow(view.found[to].index);
    });
    return button;
  });
  const head = make("div", { class: "detail-head" }, back, heading, previous, next);
  const contexts = contextsPart(contextsOf(feature), feature.peak, view);
  detail.replaceChildren(head, ...numbersPart(feature), ...contexts);
  // Whoever steps from feature to feature keeps the button under the finger.
  const again = held === "Next" ? next : previous;
  if (held) (again.disabled ? heading : again).focus({ preventScroll: true });
}

function start() {
  if (data.profile.some((layer) => layer.two_nn !== null || layer.mle !== null)) {
    part("layers").append(profileChart(data.profile, data.layers));
  }
  part("training").append(trainingPanels(data.curve));
  part("controls").hidden = data.features.length < 2;
  part("controls").addEventListener("submit", (event) => event.preventDefault());
  part("query").addEventListener("input", () => search(part("query").value));
  const turn = (largestFirst) => {
    view.largestFirst = largestFirst;
    part("direction").textContent = largestFirst ? "Largest first" : "Smallest first";
    refresh();
  };
  part("direction").addEventListener("click", () => turn(!view.largestFirst));
  part("order").addEventListener("change", () => {
    view.order = part("order").value;
    turn(view.order !== "index");
  });
  part("more").addEventListener("click", () => drawRows());
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && view.drawn) drawRows();
  }).observe(part("more"));
  part("list").addEventListener("keydown", (event) => {
    const rows = [...part("list").querySelectorAll(".row")];
    const at = rows.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 }[event.key];
    if (to === undefined || !rows[to]) return;
    event.preventDefault();
    rows[to].focus();
  });
  window.addEventListener("hashchange", followAddress);
  refresh();
  prepareSearch();
  // The charts above take their height in the first frame; only then is the place to go known.
  requestAnimationFrame(() => requestAnimationFrame(() => followAddress()));
}

start();
