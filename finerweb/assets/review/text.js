"use strict";
// Text as people see it: offsets in code points, graphemes, and entities drawn upon it.

const at = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// UTF-16 offsets of a text's code points; the last one is the text's length.
function codeUnits(text) {
  const units = [];
  let unit = 0;
  for (const character of text) {
    units.push(unit);
    unit += character.length;
  }
  units.push(unit);
  return units;
}

// The code point that a UTF-16 offset lies in.
function codePoint(units, unit) {
  let low = 0;
  let high = units.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (units[middle] <= unit) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Where graphemes ("grapheme") or words ("word") begin and end, in code points.
function boundaries(text, units, language, granularity) {
  if (typeof Intl.Segmenter === "function") {
    let segmenter;
    try {
      segmenter = new Intl.Segmenter(language || undefined, { granularity });
    } catch {
      segmenter = new Intl.Segmenter(undefined, { granularity });
    }
    return [...Array.from(segmenter.segment(text), (piece) => codePoint(units, piece.index)), units.length - 1];
  }
  const inside = granularity === "word" ? /[\p{L}\p{M}\p{N}\u200d]/u : /[\p{M}\u200d\ufe0f]/u;
  const points = Array.from(text);
  const starts = points.map((_, n) => n).filter((n) => !n || !inside.test(points[n]) || !inside.test(points[n - (granularity === "word" ? 1 : 0)]));
  return [...starts, points.length];
}

// Each mark's line below the text: the lowest one that no overlapping mark has.
function lanes(marks) {
  const ends = [];
  return marks.map((mark) => {
    let lane = ends.findIndex((end) => end <= mark.start);
    if (lane < 0) lane = ends.length;
    ends[lane] = mark.end;
    return lane;
  });
}

const PATTERNS = [null, "6px 3px", "2px 2px"]; // solid, dashed, dotted: labels of one hue differ in their lines

// The lines of some marks as layers of a background, the first one next to the text.
function drawLines(segment, covering, depth) {
  const layers = [];
  const places = [];
  const sizes = [];
  for (const { hue, pattern, lane } of covering) {
    const colour = `var(--hue${hue})`;
    const [on, off] = (PATTERNS[pattern] || "1px 0px").split(" ").map(parseFloat);
    layers.push(`repeating-linear-gradient(90deg, ${colour} 0 ${on}px, transparent ${on}px ${on + off}px)`);
    places.push(`0 calc(100% - ${(depth - 1 - lane) * 5}px)`);
    sizes.push("100% 3px");
  }
  const inner = covering[covering.length - 1];
  layers.push(`linear-gradient(color-mix(in srgb, var(--hue${inner.hue}) var(--tint), transparent) 0 0)`);
  places.push("0 0");
  const lowest = Math.max(...covering.map((mark) => mark.lane));
  sizes.push(`100% calc(100% - ${(depth - 1 - lowest) * 5}px)`);
  Object.assign(segment.style, { backgroundImage: layers.join(","), backgroundPosition: places.join(","), backgroundSize: sizes.join(",") });
  segment.style.backgroundRepeat = "no-repeat";
}

const JOINING = /[\p{Script=Arab}\p{Script=Syrc}\p{Script=Nkoo}\p{Script=Mong}\p{Script=Adlm}\p{Script=Rohg}\p{Script=Mand}]/u;

// Fills `box` with the text and its marks: {start, end, label, hue, pattern, sign, chosen, gone, key} in code points,
// ordered by start and then the longer first.
function drawText(box, text, units, marks) {
  const lane = lanes(marks);
  marks = marks.map((mark, m) => ({ ...mark, lane: lane[m] }));
  const depth = Math.max(1, ...marks.map((mark) => mark.lane + 1));
  box.style.setProperty("--depth", `${depth * 5}px`);
  box.style.setProperty("--leading", `${1.75 + depth * 0.3}`);
  const cuts = [...new Set([0, units.length - 1, ...marks.flatMap((mark) => [mark.start, mark.end])])].sort((a, b) => a - b);
  const parts = [];
  for (let n = 0; n + 1 < cuts.length; n++) {
    const [start, end] = [cuts[n], cuts[n + 1]];
    const covering = marks.filter((mark) => mark.start <= start && mark.end >= end);
    const words = text.slice(units[start], units[end]);
    const segment = make("span", { className: "plain", textContent: words });
    segment.dataset.unit = units[start];
    if (covering.length) {
      segment.className = "seg";
      segment.dataset.keys = covering.map((mark) => mark.key).join(" ");
      segment.classList.toggle("chosen", covering.some((mark) => mark.chosen));
      segment.classList.toggle("gone", covering.every((mark) => mark.gone));
      drawLines(segment, covering, depth);
    }
    parts.push(segment);
    const ending = marks.filter((mark) => mark.end === end);
    if (!ending.length) continue;
    // A label inside a word must not part letters that are written joined.
    const next = text.slice(units[end], units[end] + 2);
    const joined = JOINING.test(words.slice(-1)) && JOINING.test(next.slice(0, 1));
    if (joined) parts.push(make("span", { className: "joiner", textContent: "\u200d" }));
    for (const mark of ending.reverse()) {
      // The word joiner keeps a label on the line of its words.
      const short = Array.from(mark.label).length > 28 ? `${Array.from(mark.label).slice(0, 27).join("")}…` : mark.label;
      parts.push(make("span", { className: "joiner", textContent: "\u2060" }));
      const tag = make("span", { className: "tag", textContent: `${mark.sign}${short}`, title: mark.label });
      tag.dataset.keys = mark.key;
      tag.classList.toggle("chosen", Boolean(mark.chosen));
      tag.classList.toggle("gone", Boolean(mark.gone));
      tag.style.setProperty("--hue", `var(--hue${mark.hue})`);
      parts.push(tag);
    }
    if (joined) parts.push(make("span", { className: "joiner", textContent: "\u200d" }));
  }
  box.replaceChildren(...parts);
}

// The UTF-16 offset in a drawn text of a place in the page, or -1 outside of it.
function unitAt(box, node, offset) {
  if (!box.contains(node)) return -1;
  if (node === box) {
    const before = [...box.children].slice(0, offset).filter((part) => part.dataset.unit !== undefined);
    const last = before[before.length - 1];
    return last ? Number(last.dataset.unit) + last.textContent.length : 0;
  }
  let part = node.nodeType === Node.TEXT_NODE ? node.parentNode : node;
  if (part.dataset.unit !== undefined) return Number(part.dataset.unit) + (node.nodeType === Node.TEXT_NODE || !offset ? offset : part.textContent.length);
  while (part && part.dataset.unit === undefined) part = part.previousElementSibling; // in a label: the text before it
  return part ? Number(part.dataset.unit) + part.textContent.length : 0;
}
