// The page: the list of passages, the passage at work, and what keys and buttons do.

const ROW = 70; // pixels of a row of the list, as in page.css
const SIGNS = { open: "", accepted: "✓ ", rejected: "✗ ", changed: "✎ ", added: "+ " };
const state = { data: null, shown: [], place: 0, chosen: null, units: [], sides: false, selection: null };
const format = new Intl.NumberFormat("en");
const number = (value) => format.format(value);
const current = () => state.shown[state.place];
const passageNow = () => opened(review.passages[current()]);
const tell = (words) => { at("told").textContent = words; };

// Looks of a label: the eight commonest differ in colour, the next in the pattern of their line.
const looks = new Map();
function look(label) {
  if (!looks.has(label)) looks.set(label, looks.size);
  const n = looks.get(label);
  return { hue: n % 8, pattern: Math.floor(n / 8) % 3 };
}

const confidence = (entity) => entity.probability ?? entity.score;

// --- the payload ---

async function unpack(packed) {
  const characters = atob(packed);
  const bytes = new Uint8Array(characters.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = characters.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const FIELDS = 6; // numbers of an entity: start, end, label, score, probability, group of teachers
const CLAIM = 3;
const sure = (thousandths) => (thousandths < 0 ? null : thousandths / 1000);

// The numbers of a passage as lists, made when somebody looks at it: `entities` and `claims`.
function opened(passage) {
  if (passage.entities) return passage;
  const { labels, groups } = state.data;
  const { flat, flatClaims } = passage;
  passage.entities = [];
  for (let m = 0; m < flat.length; m += FIELDS) {
    passage.entities.push([flat[m], flat[m + 1], labels[flat[m + 2]], sure(flat[m + 3]), sure(flat[m + 4]), groups[flat[m + 5]]]);
  }
  passage.claims = flatClaims.map((numbers) => {
    const claims = [];
    for (let m = 0; m < numbers.length; m += CLAIM) claims.push([numbers[m], numbers[m + 1], labels[numbers[m + 2]]]);
    return claims;
  });
  return passage;
}

function fillIn(data) {
  for (const passage of data.passages) {
    passage.flat = passage.entities;
    passage.flatClaims = passage.claims;
    passage.entities = null;
    passage.claims = null;
  }
  return data;
}

// --- filters ---

const keyOfClaim = ([start, end, label]) => JSON.stringify([start, end, label]);

function sidesOf(passage) {
  const [left, right] = sideNumbers().map((side) => passage.claims[side] || []);
  const [inLeft, inRight] = [left, right].map((claims) => new Set(claims.map(keyOfClaim)));
  return [left.filter((claim) => !inRight.has(keyOfClaim(claim))), right.filter((claim) => !inLeft.has(keyOfClaim(claim)))];
}

const sideNumbers = () => [at("left").selectedIndex, at("right").selectedIndex];

function differ(passage, [left, right]) {
  const [one, two] = [passage.flatClaims[left] || [], passage.flatClaims[right] || []];
  return one.length !== two.length || one.some((value, m) => value !== two[m]);
}

// Whether one entity of a passage has the label, the teacher and the confidence that are wanted.
function hasEntity(n, wanted) {
  if (review.entries.has(n)) {
    return entitiesOf(n).some((entity) => entity.status !== "rejected" && (!wanted.label || entity.label.toLowerCase().includes(wanted.label))
      && (!wanted.teacher || (wanted.teacher === "1" ? entity.teachers.length === 1 : entity.teachers.includes(wanted.teacher.slice(1))))
      && (wanted.confidence === null || (confidence(entity) ?? 1) <= wanted.confidence));
  }
  const { flat } = review.passages[n];
  for (let m = 0; m < flat.length; m += FIELDS) {
    if (wanted.label && !wanted.labels[flat[m + 2]]) continue;
    if (wanted.teacher && !wanted.groups[flat[m + 5]]) continue;
    const thousandths = flat[m + 4] < 0 ? flat[m + 3] : flat[m + 4];
    if (wanted.confidence === null || (thousandths < 0 ? 1 : thousandths / 1000) <= wanted.confidence) return true;
  }
  return false;
}

function fits(n, wanted) {
  const passage = review.passages[n];
  const entry = entryOf(n);
  if (wanted.status === "open" && entry.done) return false;
  if (wanted.status === "done" && !entry.done) return false;
  if (wanted.status === "changed" && !isChanged(entry)) return false;
  if (wanted.status === "noted" && !entry.note) return false;
  const { verdict } = passage;
  const faults = verdict ? verdict.missing.length + verdict.extra.length + verdict.wrong.length : 0;
  if (wanted.verdict === "faults" && !faults) return false;
  if (wanted.verdict === "sound" && (!verdict || faults)) return false;
  if (wanted.verdict === "none" && verdict) return false;
  if (wanted.difference && !differ(passage, wanted.sides)) return false;
  if (wanted.words && ![lowered(passage), passage.id.toLowerCase(), entry.note.toLowerCase()].some((text) => text.includes(wanted.words))) return false;
  return (!wanted.label && !wanted.teacher && wanted.confidence === null) || hasEntity(n, wanted);
}

function lowered(passage) {
  passage.lower ??= passage.text.toLowerCase();
  return passage.lower;
}

function filterPassages() {
  const kept = current();
  const below = at("by-confidence").value;
  const wanted = {
    words: at("search").value.trim().toLowerCase(), label: at("by-label").value.trim().toLowerCase(), teacher: at("by-teacher").value,
    confidence: below === "" ? null : Number(below), verdict: at("by-verdict").value, status: at("by-status").value, difference: at("by-difference").checked, sides: sideNumbers(),
  };
  wanted.labels = state.data.labels.map((label) => label.toLowerCase().includes(wanted.label));
  wanted.groups = state.data.groups.map((names) => (wanted.teacher === "1" ? names.length === 1 : names.includes(wanted.teacher.slice(1))));
  state.shown = review.passages.map((_, n) => n).filter((n) => fits(n, wanted));
  const place = state.shown.indexOf(kept);
  state.place = Math.max(0, place);
  at("shown").textContent = `${number(state.shown.length)} of ${number(review.passages.length)} passages`;
  at("rows").style.height = `${state.shown.length * ROW}px`;
  if (place < 0) {
    at("list").scrollTop = 0;
    openPassage();
  } else showRow();
}

// --- the list: only the rows in sight are made ---

function drawRows() {
  const list = at("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let place = first; place < last; place++) {
    const n = state.shown[place];
    const passage = review.passages[n];
    const entry = entryOf(n);
    const sign = entry.done ? "✓ reviewed" : isEmpty(entry) ? "" : "… begun";
    const title = make("span", {}, make("b", { textContent: `${number(n + 1)}. ` }), make("bdi", { textContent: passage.id }), ` ${sign}${entry.note ? " ✉ note" : ""}`);
    const row = make("div", { className: "row", id: `row-${place}` }, title,
      make("span", { dir: state.data.direction, lang: state.data.language, textContent: passage.text.slice(0, 90) }),
      make("span", { className: "because" }, ...passage.why.flatMap((reason, m) => [m ? "; " : "", make("bdi", { textContent: reason })])));
    row.style.top = `${place * ROW}px`;
    row.dataset.place = place;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(place === state.place));
    row.setAttribute("aria-setsize", state.shown.length);
    row.setAttribute("aria-posinset", place + 1);
    rows.push(row);
  }
  at("rows").replaceChildren(...rows);
  if (state.place >= first && state.place < last) list.setAttribute("aria-activedescendant", `row-${state.place}`);
  else list.removeAttribute("aria-activedescendant");
}

function showRow() {
  const list = at("list");
  const top = state.place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  drawRows();
}

function drawProgress() {
  const done = [...review.entries.values()].filter((entry) => entry.done).length;
  at("progress").textContent = `${number(done)} of ${number(review.passages.length)} reviewed`;
  const warning = at("warning");
  warning.hidden = review.keeps;
  warning.textContent = review.keeps ? "" : "This browser cannot keep your progress (its storage is full or turned off): download your answers before you close the page.";
}

// --- the passage ---

function drawPassage() {
  const n = current();
  const passage = passageNow();
  const marks = entitiesOf(n);
  if (!marks.some((mark) => mark.key === state.chosen)) state.chosen = marks.length ? marks[0].key : null;
  const drawn = marks.map((mark) => ({
    ...mark, ...look(mark.label), sign: SIGNS[mark.status], chosen: mark.key === state.chosen, gone: mark.status === "rejected",
  }));
  drawText(at("text"), passage.text, state.units, drawn);
  drawEntities(drawn, passage);
  const isOpen = !entryOf(n).done;
  document.querySelector("[data-do=finish]").firstChild.textContent = isOpen ? "Reviewed, next " : "✓ Reviewed; next ";
  document.querySelector("[data-do=undo]").disabled = !review.undo.length;
  document.querySelector("[data-do=redo]").disabled = !review.redo.length;
  drawProgress();
}

function drawEntities(marks, passage) {
  const list = at("entities");
  const options = marks.map((mark) => {
    const sure = confidence(mark);
    const about = [sure === null || sure === undefined ? "" : `${Math.round(sure * 100)} %`, mark.teachers.join(", ")].filter(Boolean).join(" · ");
    const words = passage.text.slice(state.units[mark.start], state.units[mark.end]);
    const option = make("div", { className: "entity", id: `entity-${mark.key}` },
      make("span", { textContent: SIGNS[mark.status] ? `${SIGNS[mark.status]}${mark.status}` : "" }),
      make("bdi", { className: "words", textContent: words }), make("bdi", { className: "kind", textContent: mark.label }),
      make("span", { className: "about", dir: "auto", textContent: about }));
    option.setAttribute("role", "option");
    option.setAttribute("aria-selected", String(mark.chosen));
    option.dataset.keys = mark.key;
    option.classList.toggle("gone", mark.gone);
    option.style.setProperty("--hue", `var(--hue${mark.hue})`);
    return option;
  });
  list.replaceChildren(...options);
  if (state.chosen === null) list.removeAttribute("aria-activedescendant");
  else list.setAttribute("aria-activedescendant", `entity-${state.chosen}`);
  at("entities-head").textContent = `Entities (${marks.length})`;
}

function openPassage() {
  const isThere = state.shown.length > 0;
  for (const part of ["text", "tools", "entities", "note-label", "head", "why", "entities-head"]) at(part).hidden = !isThere;
  for (const part of ["compare", "verdict"]) at(part).hidden = true;
  if (!isThere) {
    drawRows();
    drawProgress();
    tell("No passage fits these filters.");
    return;
  }
  const passage = passageNow();
  state.units = codeUnits(passage.text);
  state.chosen = null;
  state.selection = null;
  at("name").textContent = passage.id;
  at("source").hidden = !/^https?:\/\//i.test(passage.url);
  if (!at("source").hidden) at("source").href = passage.url;
  else at("source").removeAttribute("href");
  at("why").replaceChildren(...passage.why.map((reason) => make("li", { dir: "auto", textContent: reason })));
  at("text").scrollTop = 0;
  at("note").value = entryOf(current()).note;
  tell("");
  drawPassage();
  drawVerdict(passage.verdict);
  drawCompare();
  showRow();
}

function drawVerdict(verdict) {
  at("verdict").hidden = !verdict;
  if (!verdict) return;
  const grade = (value) => (value === null || value === undefined ? "none" : `${Math.round(value * 10) / 10} of 5`);
  at("scores").textContent = `Faithfulness ${grade(verdict.faithfulness)}, completeness ${grade(verdict.completeness)}. ${verdict.explanation || ""}`;
  const counts = new Map();
  for (const kind of ["missing", "extra", "wrong"]) {
    for (const { text, label, reason } of verdict[kind]) {
      const fault = JSON.stringify([kind, text, label, reason]);
      counts.set(fault, (counts.get(fault) || 0) + 1);
    }
  }
  at("faults").replaceChildren(...[...counts].map(([fault, count]) => {
    const [kind, text, label, reason] = JSON.parse(fault);
    const words = [make("bdi", { textContent: text }), " (", make("bdi", { textContent: label }), "): ", make("bdi", { textContent: reason })];
    return make("li", {}, make("b", { textContent: `${kind}${count > 1 ? ` ×${count}` : ""}: ` }), ...words);
  }));
}

// --- two teachers ---

// Claims that touch each other, as rows of [left, right].
function differenceRows(left, right) {
  const claims = [...left.map((claim) => [claim, 0]), ...right.map((claim) => [claim, 1])].sort(([a], [b]) => a[0] - b[0] || b[1] - a[1]);
  const rows = [];
  let reach = -1;
  for (const [claim, side] of claims) {
    if (claim[0] >= reach) rows.push([[], []]);
    rows[rows.length - 1][side].push(claim);
    reach = Math.max(reach, claim[1]);
  }
  return rows;
}

function drawCompare() {
  const passage = passageNow();
  at("compare").hidden = state.data.claimants.length < 2;
  if (at("compare").hidden) return;
  const names = [at("left").value, at("right").value];
  const rows = differenceRows(...sidesOf(passage));
  const words = ([start, end]) => passage.text.slice(state.units[start], state.units[end]);
  const cell = (claims) => make("td", {}, ...claims.map((claim) => {
    const button = make("button", { type: "button" }, make("bdi", { textContent: words(claim) }), " ", make("bdi", { textContent: `(${claim[2]})` }));
    button.setAttribute("aria-label", `take ${words(claim)}, ${claim[2]}`);
    button.addEventListener("click", () => takeClaim(claim, rows.find((row) => row.some((side) => side.includes(claim)))));
    return button;
  }), claims.length ? "" : "–");
  const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col", dir: "auto", textContent: name })));
  const body = rows.map((row) => make("tr", {}, ...row.map(cell)));
  at("differences").replaceChildren(...(rows.length ? [make("thead", {}, head), make("tbody", {}, ...body)] : []));
  if (!rows.length) at("differences").replaceChildren(make("caption", { textContent: "They name the same entities here." }));
  at("sides").replaceChildren(...(state.sides ? names.map((name) => sideOf(name, passage)) : []));
}

// The whole text as one teacher sees it; what the other does not say carries the sign ≠.
function sideOf(name, passage) {
  const other = name === at("left").value ? at("right").value : at("left").value;
  const claims = passage.claims[state.data.claimants.indexOf(name)];
  const others = new Set(passage.claims[state.data.claimants.indexOf(other)].map(keyOfClaim));
  const marks = claims.map((claim, m) => ({
    start: claim[0], end: claim[1], label: claim[2], key: `side-${m}`, sign: others.has(keyOfClaim(claim)) ? "" : "≠ ", ...look(claim[2]),
  })).sort((a, b) => a.start - b.start || b.end - a.end);
  const box = make("div", { className: "text", dir: state.data.direction, lang: state.data.language });
  drawText(box, passage.text, state.units, marks);
  return make("div", {}, make("h4", { dir: "auto", textContent: name }), box);
}

// A teacher's claim in place of what else its row has; nothing else is touched.
function takeClaim(claim, row) {
  const n = current();
  const [start, end, label] = claim;
  const inRow = new Set(row.flat().map(keyOfClaim));
  let entry = entryOf(n);
  let wanted = null;
  for (const entity of entitiesOf(n).reverse()) { // additions from the last, so that the numbers of the others stay
    const key = keyOfClaim([entity.start, entity.end, entity.label]);
    if (key === keyOfClaim(claim)) wanted = entity.key;
    else if (inRow.has(key) && entity.status !== "rejected" && !entity.key.startsWith("+")) entry = decided(entry, passageNow(), entity.key, "rejected");
  }
  if (wanted === null) {
    wanted = `+${entry.added.length}`;
    entry = { ...entry, added: [...entry.added, [start, end, label]] };
  } else entry = decided(entry, passageNow(), wanted, "accepted");
  change(n, entry);
  drawPassage();
  choose(wanted);
  tell(`taken: ${passageNow().text.slice(state.units[start], state.units[end])}, ${label}`);
}

// --- what a person does ---

// Marks the chosen entity in what is drawn already.
function showChosen() {
  for (const part of document.querySelectorAll("#text [data-keys]")) part.classList.toggle("chosen", part.dataset.keys.split(" ").includes(state.chosen));
  for (const option of at("entities").children) option.setAttribute("aria-selected", String(option.dataset.keys === state.chosen));
  at("entities").setAttribute("aria-activedescendant", `entity-${state.chosen}`);
}

function choose(key) {
  state.chosen = key;
  showChosen();
  document.getElementById(`entity-${key}`)?.scrollIntoView({ block: "nearest" });
  const segment = document.querySelector("#text .seg.chosen");
  const box = at("text");
  if (segment && (segment.offsetTop - box.offsetTop < box.scrollTop || segment.offsetTop - box.offsetTop > box.scrollTop + box.clientHeight - 40)) {
    box.scrollTop = segment.offsetTop - box.offsetTop - box.clientHeight / 3;
  }
}

const chosenEntity = () => entitiesOf(current()).find((entity) => entity.key === state.chosen);
const wordsOf = ({ start, end }) => passageNow().text.slice(state.units[start], state.units[end]);

function describe(entity) {
  const sure = confidence(entity);
  return [entity.status === "open" ? "" : entity.status, wordsOf(entity), entity.label, sure === null || sure === undefined ? "" : `${Math.round(sure * 100)} percent`].filter(Boolean).join(", ");
}

function step(by) {
  const keys = entitiesOf(current()).map((entity) => entity.key);
  if (!keys.length) return tell("This passage has no entities; e adds one.");
  const place = (keys.indexOf(state.chosen) + by + keys.length) % keys.length;
  choose(keys[place]);
  tell(`${place + 1} of ${keys.length}: ${describe(chosenEntity())}`);
}

function decide(verdict) {
  const entity = chosenEntity();
  if (!entity) return tell("No entity is chosen.");
  change(current(), decided(entryOf(current()), passageNow(), entity.key, verdict));
  drawPassage();
  if (verdict !== "rejected") choose(entity.key);
  drawRows();
  const now = chosenEntity();
  tell(verdict === "rejected" ? `rejected: ${wordsOf(entity)}, ${entity.label}` : describe(now));
  return now;
}

function decideAndStep(verdict) {
  const keys = entitiesOf(current()).map((entity) => entity.key);
  const next = keys[keys.indexOf(state.chosen) + 1];
  const entity = chosenEntity();
  if (!decide(verdict) && verdict !== "rejected") return;
  if (next && entity && !entity.key.startsWith("+")) {
    const words = at("told").textContent;
    choose(next);
    tell(`${words}. Next: ${describe(chosenEntity())}`);
  }
}

function move(edge, by, granularity) {
  const entity = chosenEntity();
  if (!entity) return tell("No entity is chosen.");
  if (entity.status === "rejected") return tell("It is rejected; accept it first.");
  const edges = boundaries(passageNow().text, state.units, state.data.bcp47, granularity);
  const place = by < 0 ? edges.filter((point) => point < entity[edge]).pop() : edges.find((point) => point > entity[edge]);
  const moved = { start: entity.start, end: entity.end, [edge]: place };
  if (place === undefined || moved.start >= moved.end) return tell("It cannot go further.");
  decide([moved.start, moved.end, entity.label]);
}

function goTo(place) {
  if (!state.shown.length) return;
  state.place = Math.max(0, Math.min(state.shown.length - 1, place));
  openPassage();
  tell(`passage ${number(state.place + 1)} of ${number(state.shown.length)}, ${entitiesOf(current()).length} entities`);
}

function finish() {
  if (!state.shown.length) return;
  const n = current();
  if (!entryOf(n).done) change(n, { ...entryOf(n), done: true });
  const order = [...state.shown.keys()];
  const next = [...order.slice(state.place + 1), ...order.slice(0, state.place)].find((place) => !entryOf(state.shown[place]).done);
  if (next === undefined) {
    drawPassage();
    drawRows();
    return tell("All passages shown are reviewed.");
  }
  goTo(next);
  if (matchMedia("(max-width: 760px)").matches) at("passage").scrollIntoView();
}

function reopen() {
  if (!entryOf(current()).done) return;
  change(current(), { ...entryOf(current()), done: false });
  drawPassage();
  drawRows();
  tell("not reviewed");
}

function goBack(from, to, words) {
  const n = takeBack(from, to);
  if (n < 0) return tell("There is nothing more.");
  if (!state.shown.includes(n)) {
    at("filters").reset();
    filterPassages();
  }
  const { chosen } = state;
  state.place = state.shown.indexOf(n);
  openPassage();
  if (entitiesOf(n).some((entity) => entity.key === chosen)) choose(chosen);
  tell(words);
}

// --- the dialog for labels, and for words to add ---

function askLabel(title, words, label) {
  at("label-title").textContent = title;
  at("words-label").hidden = words === null;
  at("words").value = words || "";
  at("label").value = label;
  at("label-fault").textContent = "";
  at("label-dialog").showModal();
  (words === "" ? at("words") : at("label")).select();
}

function relabel() {
  const entity = chosenEntity();
  if (!entity) return tell("No entity is chosen.");
  state.answer = (_, label) => {
    decide([entity.start, entity.end, label]);
    return "";
  };
  askLabel("Another label", null, entity.label);
}

function readSelection() {
  const selection = document.getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  const units = [[range.startContainer, range.startOffset], [range.endContainer, range.endOffset]].map(([node, offset]) => unitAt(at("text"), node, offset));
  if (units.includes(-1)) return null;
  let [start, end] = units.map((unit) => codePoint(state.units, unit));
  // Whole graphemes, without the blanks around.
  const edges = boundaries(passageNow().text, state.units, state.data.bcp47, "grapheme");
  start = edges.filter((point) => point <= start).pop();
  end = edges.find((point) => point >= end);
  const isBlank = (point) => /\s/u.test(passageNow().text.slice(state.units[point], state.units[point + 1]));
  while (start < end && isBlank(start)) start += 1;
  while (start < end && isBlank(end - 1)) end -= 1;
  return start < end ? [start, end] : null;
}

// The first place of some words that no entity has, from the chosen entity on, then from the start.
function findPlace(words) {
  const { text } = passageNow();
  const entities = entitiesOf(current()).filter((entity) => entity.status !== "rejected");
  const from = chosenEntity() ? state.units[chosenEntity().end] : 0;
  const places = [];
  for (let unit = text.indexOf(words); unit >= 0; unit = text.indexOf(words, unit + 1)) places.push(unit);
  const spans = [...places.filter((unit) => unit >= from), ...places.filter((unit) => unit < from)]
    .map((unit) => [codePoint(state.units, unit), codePoint(state.units, unit + words.length)])
    .filter(([start, end]) => state.units.includes(state.units[start]) && passageNow().text.slice(state.units[start], state.units[end]) === words);
  return spans.find(([start, end]) => !entities.some((entity) => entity.start === start && entity.end === end)) || spans[0] || null;
}

function add() {
  const marked = readSelection() || state.selection;
  const edges = marked ? null : nextWord();
  const words = marked ? wordsOf({ start: marked[0], end: marked[1] }) : edges ? wordsOf({ start: edges[0], end: edges[1] }) : "";
  state.answer = (typed, label) => {
    const span = marked && typed === words ? marked : edges && typed === words ? edges : findPlace(typed);
    if (!typed || !span) return "These words do not stand in the text.";
    const n = current();
    const entry = entryOf(n);
    change(n, { ...entry, added: [...entry.added, [...span, label]] });
    drawPassage();
    choose(`+${entry.added.length}`);
    state.selection = null;
    document.getSelection().removeAllRanges();
    drawRows();
    tell(`added: ${typed}, ${label}`);
    return "";
  };
  askLabel("Add an entity", words, "");
  if (!marked) at("words").select();
}

// The first word after the chosen entity that no entity covers: where adding by keyboard begins.
function nextWord() {
  const { text } = passageNow();
  const edges = boundaries(text, state.units, state.data.bcp47, "word");
  const entities = entitiesOf(current());
  const from = chosenEntity() ? chosenEntity().end : 0;
  for (let n = 0; n + 1 < edges.length; n++) {
    const [start, end] = [edges[n], edges[n + 1]];
    const isWord = /[\p{L}\p{N}]/u.test(text.slice(state.units[start], state.units[end]));
    if (start >= from && isWord && !entities.some((entity) => entity.start < end && start < entity.end)) return [start, end];
  }
  return null;
}

function setNote() {
  if (state.shown.length) {
    change(current(), { ...entryOf(current()), note: at("note").value });
    drawProgress();
    drawRows();
  }
}

function download() {
  const reviewer = at("reviewer").value.trim() || "reviewer";
  const lines = answerLines(state.data.key, reviewer);
  if (!lines.length) return tell("There are no answers yet.");
  const plain = [state.data.name, state.data.language, reviewer].map((part) => part.replace(/[^\p{L}\p{N}_.-]+/gu, "-")).join("-");
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "application/x-ndjson" }));
  make("a", { href: url, download: `${plain}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  review.unsaved = false;
  tell(`${number(lines.length)} answers downloaded`);
}

const ACTIONS = {
  accept: () => decideAndStep("accepted"), reject: () => decideAndStep("rejected"), relabel, add, finish,
  startBack: (unit) => move("start", -1, unit), startOn: (unit) => move("start", 1, unit),
  endBack: (unit) => move("end", -1, unit), endOn: (unit) => move("end", 1, unit),
  undo: () => goBack(review.undo, review.redo, "undone"), redo: () => goBack(review.redo, review.undo, "done again"),
};
const KEYS = {
  a: ACTIONS.accept, x: ACTIONS.reject, r: relabel, e: add, u: reopen, j: () => step(1), k: () => step(-1), n: () => goTo(state.place + 1),
  p: () => goTo(state.place - 1), s: () => ACTIONS.startBack("grapheme"), d: () => ACTIONS.startOn("grapheme"), f: () => ACTIONS.endBack("grapheme"),
  g: () => ACTIONS.endOn("grapheme"), S: () => ACTIONS.startBack("word"), D: () => ACTIONS.startOn("word"), F: () => ACTIONS.endBack("word"),
  G: () => ACTIONS.endOn("word"), z: ACTIONS.undo, Z: ACTIONS.redo, m: () => at("note").focus(), t: toggleSides, Enter: finish,
};

function toggleSides() {
  state.sides = !state.sides && state.data.claimants.length > 1;
  drawCompare();
  tell(state.sides ? "both teachers' texts are shown below" : "the teachers' texts are hidden");
  if (state.sides) at("compare").scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  const { target, key } = event;
  if (document.querySelector("dialog[open]")) return;
  const isField = target.matches("input, select, textarea");
  if (key === "Escape" && isField) return at("passage").focus();
  if (isField) return;
  if ((event.ctrlKey || event.metaKey) && "zy".includes(key.toLowerCase())) {
    event.preventDefault();
    return key.toLowerCase() === "y" || event.shiftKey ? ACTIONS.redo() : ACTIONS.undo();
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inList = target === at("list");
  if (key === "ArrowDown" || key === "ArrowUp") {
    if (!inList && target !== at("entities") && target !== document.body && target !== at("passage")) return;
    event.preventDefault();
    const by = key === "ArrowDown" ? 1 : -1;
    return inList ? goTo(state.place + by) : state.shown.length && step(by);
  }
  if (inList && (key === "Home" || key === "End")) {
    event.preventDefault();
    return goTo(key === "Home" ? 0 : state.shown.length - 1);
  }
  if (key === "Enter" && target.closest("button, a, .button, summary")) return;
  if (key === "Enter" && inList) return at("passage").focus();
  if (!at("single-keys").checked && key.length === 1) return;
  if (key === "?" || key === "/") {
    event.preventDefault();
    return key === "?" ? at("help").showModal() : at("search").focus();
  }
  if (!state.shown.length) return;
  if (/^[1-9]$/.test(key)) {
    const label = state.data.labels[Number(key) - 1];
    const entity = chosenEntity();
    if (!label || !entity) return;
    event.preventDefault();
    return decide([entity.start, entity.end, label]);
  }
  if (Object.hasOwn(KEYS, key)) {
    event.preventDefault();
    KEYS[key]();
  }
}

// A click chooses the innermost entity; a click on the chosen one chooses the one around it.
function onTextClick(event) {
  const part = event.target.closest("[data-keys]");
  if (!part || (document.getSelection().toString() && !part.classList.contains("tag"))) return;
  const keys = part.dataset.keys.split(" ");
  const place = keys.indexOf(state.chosen);
  choose(keys[place > 0 ? place - 1 : keys.length - 1]);
  tell(describe(chosenEntity()));
}

function rememberSelection() {
  const marked = state.shown.length ? readSelection() : null;
  state.selection = marked;
  if (marked) tell(`marked: ${wordsOf({ start: marked[0], end: marked[1] })}. e adds it`);
}

function listen() {
  document.addEventListener("keydown", onKey);
  at("text").addEventListener("click", onTextClick);
  at("text").addEventListener("mouseup", () => setTimeout(rememberSelection));
  at("text").addEventListener("touchend", () => setTimeout(rememberSelection, 300));
  at("entities").addEventListener("click", (event) => event.target.closest("[data-keys]") && choose(event.target.closest("[data-keys]").dataset.keys));
  at("tools").addEventListener("mousedown", (event) => event.preventDefault()); // the marked words stay marked
  at("tools").addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) ACTIONS[button.dataset.do](event.shiftKey ? "word" : "grapheme");
  });
  at("list").addEventListener("scroll", drawRows, { passive: true });
  at("list").addEventListener("click", (event) => event.target.closest(".row") && goTo(Number(event.target.closest(".row").dataset.place)));
  new ResizeObserver(drawRows).observe(at("list"));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("input", filterPassages);
  at("clear").addEventListener("click", () => { at("filters").reset(); filterPassages(); });
  at("note").addEventListener("change", setNote);
  for (const side of ["left", "right"]) at(side).addEventListener("change", drawCompare);
  at("download").addEventListener("click", download);
  at("load").addEventListener("change", async (event) => {
    const { taken, refused } = loadAnswers(await event.target.files[0].text());
    event.target.value = "";
    filterPassages();
    openPassage();
    tell(`${number(taken)} answers taken over${refused ? `; ${number(refused)} fit no passage of this page` : ""}`);
  });
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("label-cancel").addEventListener("click", () => at("label-dialog").close());
  at("label-dialog").querySelector("form").addEventListener("submit", (event) => {
    const label = at("label").value.trim();
    const fault = label ? state.answer(at("words").value, label) : "A label is needed.";
    at("label-fault").textContent = fault;
    if (fault) event.preventDefault();
  });
  at("label-dialog").addEventListener("close", () => { at("passage").focus({ preventScroll: true }); });
  at("reviewer").addEventListener("change", () => {
    try { localStorage.setItem(`finerweb-reviewer/${state.data.key}`, at("reviewer").value); } catch { review.keeps = false; }
  });
  addEventListener("beforeunload", (event) => { if (!review.keeps && review.unsaved) event.preventDefault(); });
  addEventListener("storage", (event) => { // the same page in another tab
    const n = review.passages.findIndex((_, m) => keyOf(m) === event.key);
    if (n < 0) return;
    review.entries.set(n, event.newValue ? readEntry(event.newValue, review.passages[n]) : NOTHING);
    if (n === current()) openPassage();
    else { drawRows(); drawProgress(); }
  });
}

function fillChoices(data) {
  const teachers = [...new Set(data.groups.flat())].sort();
  const option = (value, words = value) => make("option", { value, textContent: words });
  at("by-teacher").replaceChildren(option("", "any"), option("1", "one alone"), ...teachers.map((name) => option(`=${name}`, name)));
  at("labels").replaceChildren(...data.labels.slice(0, 500).map((label) => option(label)));
  for (const side of ["left", "right"]) at(side).replaceChildren(...data.claimants.map((name) => option(name)));
  at("right").selectedIndex = Math.min(1, data.claimants.length - 1);
  at("by-difference").parentNode.hidden = data.claimants.length < 2;
  at("quick").replaceChildren(...data.labels.slice(0, 9).map((label, n) => make("span", {}, make("kbd", { textContent: n + 1 }), " ", make("bdi", { textContent: label }))));
  data.labels.forEach(look);
}

// The texts in small letters, some at a time while nobody waits.
function prepareSearch(from) {
  for (let n = from; n < Math.min(from + 100, review.passages.length); n++) lowered(review.passages[n]);
  if (from + 100 < review.passages.length) setTimeout(prepareSearch, 20, from + 100);
}

async function start() {
  const began = performance.now();
  const data = fillIn(await unpack(at("payload").textContent));
  at("payload").remove();
  state.data = data;
  review.passages = data.passages;
  review.prefix = `finerweb/${data.key}/`;
  readKept();
  try { at("reviewer").value = localStorage.getItem(`finerweb-reviewer/${state.data.key}`) || ""; } catch { review.keeps = false; }
  document.title = `Review: ${data.name}, ${data.language}`;
  at("title").textContent = `${data.name}, ${data.language}`;
  at("text").dir = data.direction;
  at("text").lang = data.bcp47;
  fillChoices(data);
  document.querySelector("main").hidden = false;
  listen();
  state.place = -1;
  filterPassages();
  const open = state.shown.findIndex((n) => !entryOf(n).done);
  if (open > 0) goTo(open);
  prepareSearch(0);
  document.documentElement.dataset.opened = Math.round(performance.now() - began);
}

start().catch((error) => {
  at("warning").hidden = false;
  at("warning").textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old for this page; Firefox, Chrome, Edge and Safari of 2023 and later open it."
    : `The page could not be opened: ${error.message}`;
});
