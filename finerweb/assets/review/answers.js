// What a person has decided: kept apart from the dataset, in this browser, one entry for each passage.
//
// An entry is {done, note, accepted: [n], rejected: [n], changed: {n: [start, end, label]}, added: [[start, end, label]]}
// where n is the number of an entity in the dataset; an entry is replaced and never altered, which is what undo needs.

const NOTHING = Object.freeze({ done: false, note: "", accepted: [], rejected: [], changed: {}, added: [] });
const review = { passages: [], entries: new Map(), undo: [], redo: [], prefix: "", keeps: true, unsaved: false };

const entryOf = (n) => review.entries.get(n) || NOTHING;
const isEmpty = (entry) => !entry.done && !entry.note && !entry.accepted.length && !entry.rejected.length
  && !entry.added.length && !Object.keys(entry.changed).length;
const isChanged = (entry) => Boolean(entry.rejected.length || entry.added.length || Object.keys(entry.changed).length);

// The entities of a passage as they stand now, in order of place; `key` names one for good.
function entitiesOf(n) {
  const passage = opened(review.passages[n]);
  const entry = entryOf(n);
  const entities = passage.entities.map(([start, end, label, score, probability, teachers], m) => {
    const before = { start, end, label };
    const status = entry.rejected.includes(m) ? "rejected" : entry.changed[m] ? "changed" : entry.accepted.includes(m) ? "accepted" : "open";
    const [newStart, newEnd, newLabel] = entry.changed[m] || [start, end, label];
    return { key: String(m), start: newStart, end: newEnd, label: newLabel, score, probability, teachers, status, before };
  });
  entry.added.forEach(([start, end, label], m) => {
    entities.push({ key: `+${m}`, start, end, label, score: null, probability: null, teachers: [], status: "added", before: null });
  });
  return entities.sort((a, b) => a.start - b.start || b.end - a.end || a.key.localeCompare(b.key));
}

// The entry with one entity accepted, rejected, or changed to [start, end, label]; a rejected addition is gone.
function decided(entry, passage, key, verdict) {
  const without = (list, m) => list.filter((other) => other !== m);
  if (key.startsWith("+")) {
    const m = Number(key.slice(1));
    const added = entry.added.slice();
    if (verdict === "rejected") added.splice(m, 1);
    else if (Array.isArray(verdict)) added[m] = verdict;
    return { ...entry, added };
  }
  const m = Number(key);
  const next = { ...entry, accepted: without(entry.accepted, m), rejected: without(entry.rejected, m), changed: { ...entry.changed } };
  if (Array.isArray(verdict)) {
    const same = verdict.every((value, place) => value === passage.entities[m][place]);
    if (same) delete next.changed[m];
    else next.changed[m] = verdict;
  } else if (verdict === "rejected") next.rejected.push(m);
  else if (verdict === "accepted") next.accepted.push(m);
  return next;
}

const keyOf = (n) => review.prefix + review.passages[n].id;

// Keeps one entry in the browser; false where it cannot.
function keep(n) {
  try {
    const entry = entryOf(n);
    if (isEmpty(entry)) localStorage.removeItem(keyOf(n));
    else localStorage.setItem(keyOf(n), JSON.stringify(entry));
    review.keeps = true;
  } catch {
    review.keeps = false;
  }
  review.unsaved = true;
  return review.keeps;
}

function change(n, entry) {
  review.undo.push([n, entryOf(n)]);
  review.redo.length = 0;
  review.entries.set(n, entry);
  return keep(n);
}

// Takes the last change back (or, the other way round, makes it again); the passage's number, or -1.
function takeBack(from, to) {
  const last = from.pop();
  if (!last) return -1;
  const [n, entry] = last;
  to.push([n, entryOf(n)]);
  review.entries.set(n, entry);
  keep(n);
  return n;
}

// An entry that was kept, if it has the form of one and fits the passage.
function readEntry(text, passage) {
  const length = codeUnits(passage.text).length - 1;
  const isSpan = (span) => Array.isArray(span) && span.length === 3 && Number.isInteger(span[0]) && Number.isInteger(span[1])
    && span[0] >= 0 && span[0] < span[1] && span[1] <= length && typeof span[2] === "string" && span[2].trim() !== "";
  const isNumber = (m) => Number.isInteger(m) && m >= 0 && m < opened(passage).entities.length;
  try {
    const kept = JSON.parse(text);
    const changed = Object.entries(kept.changed).filter(([m, span]) => isNumber(Number(m)) && isSpan(span));
    return {
      done: kept.done === true, note: String(kept.note), accepted: kept.accepted.filter(isNumber), rejected: kept.rejected.filter(isNumber),
      changed: Object.fromEntries(changed), added: kept.added.filter(isSpan),
    };
  } catch {
    return NOTHING;
  }
}

function readKept() {
  const numbers = new Map(review.passages.map((passage, n) => [review.prefix + passage.id, n]));
  try {
    localStorage.setItem("finerweb-test", "1");
    localStorage.removeItem("finerweb-test");
    for (let k = 0; k < localStorage.length; k++) {
      const key = localStorage.key(k);
      const n = numbers.get(key);
      if (n !== undefined) review.entries.set(n, readEntry(localStorage.getItem(key), review.passages[n]));
    }
  } catch {
    review.keeps = false;
  }
}

// The lines of the answers' file: one for each passage that was touched.
function answerLines(dataset, reviewer) {
  const lines = [];
  for (const [n, entry] of [...review.entries].sort(([a], [b]) => a - b)) {
    if (isEmpty(entry)) continue;
    const { id, text } = review.passages[n];
    const seen = new Set();
    const entities = [];
    for (const { start, end, label, status } of entitiesOf(n)) {
      const same = JSON.stringify([start, end, label]);
      if (status === "rejected" || seen.has(same)) continue;
      seen.add(same);
      entities.push({ start, end, label });
    }
    lines.push(JSON.stringify({ dataset, id, text, reviewer, reviewed: entry.done, note: entry.note, entities }));
  }
  return lines;
}

// The entry that makes a passage's entities those of an answer: an entity with the same place or label is a changed one.
function entryFrom(passage, answer) {
  const left = answer.entities.map(({ start, end, label }) => [start, end, label]);
  const take = (fits) => {
    const m = left.findIndex(fits);
    return m < 0 ? null : left.splice(m, 1)[0];
  };
  const missing = opened(passage).entities.map((_, m) => m).filter((m) => {
    const [start, end, label] = passage.entities[m];
    return !take((span) => span[0] === start && span[1] === end && span[2] === label);
  });
  const entry = { ...NOTHING, done: answer.reviewed === true, note: String(answer.note || ""), rejected: [], changed: {}, added: [] };
  for (const m of missing) {
    const [start, end, label] = passage.entities[m];
    const span = take((other) => other[0] === start && other[1] === end)
      || take((other) => other[2] === label && other[0] < end && start < other[1]);
    if (span) entry.changed[m] = span;
    else entry.rejected.push(m);
  }
  entry.added = left;
  return entry;
}

// Takes the answers of a file over; how many lines were taken, and how many fit no passage.
function loadAnswers(text) {
  const numbers = new Map(review.passages.map((passage, n) => [passage.id, n]));
  const counts = { taken: 0, refused: 0 };
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    try {
      const answer = JSON.parse(line);
      const n = numbers.get(answer.id);
      const passage = review.passages[n];
      if (passage.text !== answer.text) throw new Error("another text");
      change(n, readEntry(JSON.stringify(entryFrom(passage, answer)), passage));
      counts.taken += 1;
    } catch {
      counts.refused += 1;
    }
  }
  return counts;
}
