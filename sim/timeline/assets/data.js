"use strict";
// Decode the columns of the page's data and search them. Times are nanoseconds of virtual time.
// The encodings are described in columns.py, which wrote them.

const NONE = -1; // a text or flag that is null; a number that is null is NaN
const NO_ROWS = new Int32Array(0);

function decodeTrace(raw) {
  const trace = {
    run: raw.run || {}, end: raw.end, lines: raw.lines, unread: raw.unread, unknown: raw.unknown,
    last: raw.last, strings: raw.strings, index: new Map(), tables: {},
  };
  raw.strings.forEach((text, at) => trace.index.set(text, at));
  for (const kind of ["node", "lease", "hold", "pg", "msg", "log", "step", "op", "ack", "fault",
    "fault_end", "mark", "phase", "violation"]) {
    const table = raw.tables[kind];
    trace.tables[kind] = table ? decodeTable(table) : { size: 0, names: [], codes: {},
      t: new Float64Array(0), i: new Float64Array(0) };
  }
  return trace;
}

function decodeTable(raw) {
  const t = running(raw.columns.t);
  const table = { size: t.length, names: Object.keys(raw.codes), codes: raw.codes };
  for (const name of table.names) {
    table[name] = name === "t" ? t : decodeColumn(raw.columns[name], raw.codes[name], t);
  }
  for (let row = 1; row < t.length; row++) {
    if (t[row] < t[row - 1]) return sortedByTime(table);
  }
  return table;
}

function decodeColumn(cells, code, t) {
  if (code === "d") return running(cells);
  if (code === "b" || code === "s" || code === "j") {
    // A loop: `from` with a function takes several times as long.
    const indices = code === "b" ? new Int8Array(cells.length) : new Int32Array(cells.length);
    for (let row = 0; row < cells.length; row++) indices[row] = cells[row] === null ? NONE : cells[row];
    return indices;
  }
  const values = new Float64Array(cells.length);
  const relative = code === "a";
  for (let row = 0; row < cells.length; row++) {
    const cell = cells[row];
    values[row] = cell === null ? NaN : relative ? cell + t[row] : cell;
  }
  return values;
}

function running(differences) {
  const values = new Float64Array(differences.length);
  let sum = 0;
  for (let row = 0; row < differences.length; row++) values[row] = sum += differences[row];
  return values;
}

function sortedByTime(table) {
  // A trace is written in the order of time. One that was put together by hand need not be, and
  // every search below relies on the order.
  const order = Array.from(table.t.keys()).sort((a, b) => table.t[a] - table.t[b] || a - b);
  for (const name of table.names) {
    const old = table[name];
    table[name] = old.map((_, row) => old[order[row]]);
  }
  return table;
}

// The first index whose value is not below x.
function lowerBound(values, x, low = 0, high = values.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The first index whose value is above x.
function upperBound(values, x, low = 0, high = values.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Intervals that may overlap, to be asked for those that touch a range. They are kept in classes
// of similar length, each sorted by beginning: what touches a range in a class begins at most one
// length before it. One interval of a minute does not make every question look at a minute.
class Intervals {
  constructor(rows, begin, end) {
    const classes = new Map();
    for (const row of rows) {
      const length = Math.max(1, end(row) - begin(row));
      const key = Math.floor(Math.log2(length) / 2);
      if (!classes.has(key)) classes.set(key, []);
      classes.get(key).push(row);
    }
    this.classes = Array.from(classes.values(), (members) => {
      members.sort((a, b) => begin(a) - begin(b));
      const begins = Float64Array.from(members, begin);
      const ends = Float64Array.from(members, end);
      let longest = 0;
      for (let k = 0; k < begins.length; k++) longest = Math.max(longest, ends[k] - begins[k]);
      return { rows: members, begins, ends, longest };
    });
    this.size = rows.length;
  }

  // Call visit(row) for every interval that touches [from, to].
  visit(from, to, visit) {
    for (const group of this.classes) {
      let at = lowerBound(group.begins, from - group.longest);
      for (; at < group.begins.length && group.begins[at] <= to; at++) {
        if (group.ends[at] >= from) visit(group.rows[at]);
      }
    }
  }

  // How many touch the range at most, and nearly so: found without looking at each.
  count(from, to) {
    let sum = 0;
    for (const group of this.classes) {
      sum += upperBound(group.begins, to) - lowerBound(group.begins, from - group.longest);
    }
    return sum;
  }
}

// Rows of a table by the text of one of its columns: index of the text → Int32Array of rows.
function rowsBy(table, column) {
  const lists = new Map();
  for (let row = 0; row < table.size; row++) {
    const key = table[column][row];
    const list = lists.get(key);
    if (list) list.push(row);
    else lists.set(key, [row]);
  }
  for (const [key, list] of lists) lists.set(key, Int32Array.from(list));
  return lists;
}

// The last of these rows that is not later than t, or NONE.
function rowAt(rows, times, t) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[rows[middle]] <= t) low = middle + 1;
    else high = middle;
  }
  return low > 0 ? rows[low - 1] : NONE;
}

// The segment of a sorted list without overlaps that holds t, or the first after it.
function segmentAt(segments, t) {
  let low = 0;
  let high = segments.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (segments[middle].e <= t) low = middle + 1;
    else high = middle;
  }
  return low;
}

class Reader {
  // Typed access to the cells: texts as text, null as null.
  constructor(trace) {
    this.trace = trace;
    this.parsed = new Map(); // JSON text → value
    this.grouped = new Map(); // kind/column → rows by text
  }

  text(kind, column, row) {
    const cells = this.trace.tables[kind][column];
    return cells && cells[row] !== NONE ? this.trace.strings[cells[row]] : null;
  }

  number(kind, column, row) {
    const cells = this.trace.tables[kind][column];
    return cells && !Number.isNaN(cells[row]) ? cells[row] : null;
  }

  flag(kind, column, row) {
    const cells = this.trace.tables[kind][column];
    return cells && cells[row] !== NONE ? cells[row] === 1 : null;
  }

  value(kind, column, row) {
    const cells = this.trace.tables[kind][column];
    if (!cells || cells[row] === NONE) return null;
    const text = this.trace.strings[cells[row]];
    if (!this.parsed.has(text)) {
      let value = null;
      try { value = JSON.parse(text); } catch { value = text; }
      this.parsed.set(text, value);
    }
    return this.parsed.get(text);
  }

  list(kind, column, row) {
    const value = this.value(kind, column, row);
    return Array.isArray(value) ? value : [];
  }

  cell(kind, column, row) {
    const code = this.trace.tables[kind].codes[column];
    if (code === "s") return this.text(kind, column, row);
    if (code === "b") return this.flag(kind, column, row);
    if (code === "j") return this.value(kind, column, row);
    return this.number(kind, column, row);
  }

  // Where the line with this running number went: {kind, row}, or null.
  find(i) {
    for (const [kind, table] of Object.entries(this.trace.tables)) {
      const row = table.i.indexOf(i);
      if (row >= 0) return { kind, row };
    }
    return null;
  }

  // The rows of one node, by the text of its name; an empty list if it has none.
  rows(kind, name, column = "n") {
    const key = `${kind}/${column}`;
    if (!this.grouped.has(key)) this.grouped.set(key, rowsBy(this.trace.tables[kind], column));
    return this.grouped.get(key).get(this.trace.index.get(name)) || NO_ROWS;
  }

  // The latest row of the same node before this one, or NONE.
  previous(kind, row) {
    const rows = this.rows(kind, this.text(kind, "n", row));
    const at = lowerBound(rows, row);
    return at > 0 ? rows[at - 1] : NONE;
  }
}
