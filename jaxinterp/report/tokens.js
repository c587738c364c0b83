// Text as a model reads it: tokens with their white space visible, shaded by activation.

const MARKS = { "\n": "↵", "\r": "␍", "\t": "→", " ": "·" };

/** A token with marks for what would not be seen; `all` marks every space, not only lone ones. */
function visible(token, all = false) {
  const pieces = [];
  const marked = all || !token.trim() ? /[\s\p{C}]/u : /[\n\r\t\p{C}]/u;
  for (const letter of token) {
    const last = pieces.length - 1;
    if (marked.test(letter)) {
      // Invisible characters can reorder or hide text around them: show their number instead.
      const code = `\\u${letter.codePointAt(0).toString(16).padStart(4, "0")}`;
      pieces.push(make("span", { class: "mark" }, MARKS[letter] || code));
    } else if (typeof pieces[last] === "string") pieces[last] += letter;
    else pieces.push(letter);
  }
  return pieces.length ? pieces : [make("span", { class: "mark" }, "(empty)")];
}

function folded(text) {
  return text.toLowerCase().replace(/\s+/g, " ");
}

/** First and last token of the first place where `query` occurs, or null. */
function findTokens(tokens, query) {
  let text = "";
  const ends = tokens.map((token) => {
    text = folded(text + token);
    return text.length;
  });
  const start = query ? text.indexOf(query) : -1;
  if (start < 0) return null;
  return [start, start + query.length - 1].map((at) => ends.findIndex((end) => end > at));
}

/** One token of a context, shaded in proportion to its activation. */
function tokenElement(context, at, peak, match, lineBreaks) {
  const value = context.activations[at];
  const token = context.tokens[at];
  const classes = ["token"];
  if (value > 0) classes.push("active");
  if (at === context.focus) classes.push("focus");
  if (match && at >= match[0] && at <= match[1]) classes.push("match");
  const element = make("span", { class: classes.join(" "), "data-at": at }, ...visible(token));
  if (value > 0) element.style.setProperty("--share", share(value, peak));
  if (lineBreaks && token.includes("\n")) element.append("\n");
  return element;
}

/** Opacity of an activation: proportional, but never so faint that it can't be seen. */
function share(value, peak) {
  return Math.min(1, Math.max(0.1, peak > 0 ? value / peak : 1)).toFixed(3);
}

/** The tokens around the focus, or around what was searched for, on one line. */
function snippet(context, peak, query) {
  const match = findTokens(context.tokens, query);
  const centre = match ? match[0] : context.focus;
  let first = centre;
  for (let room = 16; first > 0 && (room -= context.tokens[first - 1].length) >= 0;) first -= 1;
  const line = make("span", { class: "snippet" }, first ? "…" : "");
  for (let at = first; at < Math.min(context.tokens.length, centre + 14); at += 1) {
    line.append(tokenElement(context, at, peak, match, false));
  }
  return line;
}

/** A context as a paragraph whose tokens say their activation when pointed at or focused. */
function contextElement(context, number, peak, query, lineBreaks) {
  const match = findTokens(context.tokens, query);
  const text = make("p", { class: "text" });
  context.tokens.forEach((_, at) => {
    const element = tokenElement(context, at, peak, match, lineBreaks);
    if (at === context.focus || context.activations[at] !== 0) {
      const words = `${context.tokens[at].trim() || "white space"}, ${show(context.activations[at])}`;
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", words);
      element.setAttribute("tabindex", at === context.focus ? "0" : "-1");
    }
    text.append(element);
  });
  const value = `${number}. activation ${show(context.activations[context.focus])}`;
  const source = make("div", { class: "source" }, make("span", {}, value));
  source.append(make("span", {}, context.document));
  const item = make("li", {}, source, text);
  text.addEventListener("keydown", (event) => moveFocus(event, text));
  for (const kind of ["pointerover", "focusin", "click"]) {
    text.addEventListener(kind, (event) => {
      const element = event.target.closest(".token");
      if (element) openTip(element, context.activations[element.dataset.at], peak);
    });
  }
  return item;
}

/** Left and right move between the active tokens of one context, a single tab stop. */
function moveFocus(event, text) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const stops = [...text.querySelectorAll("[tabindex]")];
  const next = stops[stops.indexOf(document.activeElement) + step];
  if (!step || !next) return;
  event.preventDefault();
  for (const stop of stops) stop.setAttribute("tabindex", stop === next ? "0" : "-1");
  next.focus();
}

const tip = document.getElementById("tip");

function openTip(element, value, peak) {
  const part = peak > 0 && value > 0 ? `, ${Math.round((100 * value) / peak)} % of the peak` : "";
  tip.textContent = `activation ${show(value)}${part}`;
  tip.hidden = false;
  tip.token = element;
  placeTip();
}

/** Puts the tip above its token, or below where there is no room; it follows when that moves. */
function placeTip() {
  if (tip.hidden) return;
  const [place, size] = [tip.token.getClientRects()[0], tip.getBoundingClientRect()];
  const height = document.documentElement.clientHeight;
  if (!place || place.bottom < 0 || place.top > height) return closeTip();
  const left = Math.min(Math.max(8, place.left), document.documentElement.clientWidth - size.width - 8);
  const above = place.top - size.height - 6;
  const top = above > 0 ? above : place.bottom + 6;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${top}px)`;
}

function closeTip() {
  tip.hidden = true;
}

document.addEventListener("pointerover", (event) => {
  if (!event.target.closest(".text .token")) closeTip();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".text .token")) closeTip();
});
document.addEventListener("focusout", closeTip);
document.addEventListener("scroll", placeTip, { capture: true, passive: true });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeTip();
});
