"use strict";
// Everything that the trace says of what is selected, as a list of names and values. Of a bar, which
// stands for a state, it is the state at the time that was clicked.

const WIDE = 34; // letters; a longer pair has a line of its own

class Details {
  constructor(model, view) {
    Object.assign(this, { model, view });
    this.key = "";
    this.box = byId("details");
    this.close = el("button", { type: "button", class: "close", title: "Select nothing (Esc)",
      onclick: () => {
        view.selected = null;
        view.changed();
      } }, "✕");
  }

  update() {
    const { selected, cursor } = this.view;
    const key = selected ? `${selected.kind}/${selected.row}/${STATE_KINDS.has(selected.kind) ? cursor : ""}` : "";
    if (key === this.key) return;
    this.key = key;
    this.box.hidden = !selected;
    byId("side").classList.toggle("detailed", Boolean(selected));
    if (!selected) return;
    const { words, reader, trace } = this.model;
    const { node, text } = words.describe(selected);
    const own = trace.tables[selected.kind].t[selected.row];
    // A state that still holds at the cursor is told as of then.
    const t = this.model.holdsAt(selected, cursor) ? cursor : own;
    const number = this.model.causeNumber(selected.kind, selected.row);
    const cause = number ? this.model.violation.causes[number - 1] : null;
    const pairs = this.pairs(selected, t).filter(([, value]) => value !== "");
    this.box.replaceChildren(
      el("h2", {}, cause ? el("span", { class: "number" }, String(number)) : null,
        [DETAIL_TITLES[selected.kind], node].filter(Boolean).join(" · "),
        el("small", {}, `at ${seconds(t, 6)}`), el("span", { class: "space" }), this.close),
      cause && cause.note ? el("p", {}, cause.note) : "",
      t === own ? el("p", {}, text) : "",
      el("dl", {}, ...[...pairs, ["line of the trace", `${reader.number(selected.kind, "i", selected.row)}${
        t === own ? "" : `, of ${seconds(own)}`}`]].map(([name, value]) => el("div", {
        class: name.length + value.length > WIDE ? "wide" : "" }, el("dt", {}, name), el("dd", {}, value)))),
    );
    this.box.scrollTop = 0;
  }

  // [name, value] of everything worth a line; what is in the sentence above is told again, for it
  // can be copied from here.
  pairs({ kind, row }, t) {
    const say = this[kind];
    const pairs = say ? say.call(this, row, t, this.part(kind, row)) : [];
    const { names } = this.model.trace.tables[kind];
    const told = new Set(["i", "t", "text", ...(DETAIL_TOLD[kind] || [])]);
    for (const name of names) {
      const value = told.has(name) ? null : this.model.reader.cell(kind, name, row);
      if (value !== null) pairs.push([spaced(name), plainValue(value)]);
    }
    return pairs;
  }

  // The text of a cell, or "".
  part(kind, row) {
    return (column) => {
      const value = this.model.reader.cell(kind, column, row);
      return value === null ? "" : plainValue(value);
    };
  }

  lane(kind, row) {
    return this.model.lanes.get(this.model.reader.text(kind, "n", row));
  }

  // How long what is seen lasts: the bar that holds this time.
  lasts(segments, t) {
    const s = segments.find(({ b, e }) => b <= t && (t < e || e === this.model.end));
    if (!s) return [];
    return [["since", `${seconds(s.b)} (${duration(t - s.b)})`],
      ["until", s.e >= this.model.end ? "the end of the run" : seconds(s.e)]];
  }

  node(row, t, part) {
    const lane = this.lane("node", row);
    const armed = this.model.reader.number("node", "armed", row);
    return [
      ["role", part("role")], ["term", part("term")], ["promised to term", part("promised")],
      ["leader", part("leader") || "knows none"], ["agent", part("agent")], ["host", part("host")],
      ["guard", `${part("guard")}${armed ? `, armed for term ${armed}` : ""}`],
      ...this.lasts(lane ? lane.roles : [], t),
    ];
  }

  pg(row, t, part) {
    const lane = this.lane("pg", row);
    const { reader } = this.model;
    const waits = lane && waitsAt(lane, t);
    const set = waitsText(reader.number("pg", "k", row), asTexts(reader.value("pg", "sync", row)));
    const recovery = reader.flag("pg", "recovery", row);
    const admit = reader.flag("pg", "admit", row);
    return [
      ["process", `${part("process")}${reader.flag("pg", "frozen", row) ? ", frozen" : ""}`],
      ["serves as", recovery === null ? "" : recovery ? "standby (in recovery)" : "primary (writable)"],
      ["clients", admit === null ? "" : admit ? "admitted"
        : `not admitted${recovery === false ? "; it can write all the same" : ""}`],
      waits ? ["commits wait for", waits.text] : ["set to let commits wait for", set.startsWith("nobody") ? "" : set],
      ["timeline", part("tli")], ["branch", part("branch")],
      ["end of WAL", lsnText(reader.number("pg", "lsn", row))],
      ["set to follow", part("upstream") || "nobody"], ["data directory", part("data")],
      ...this.lasts(lane ? lane.servers : [], t),
    ];
  }

  lease(row, t) {
    const lane = this.lane("lease", row);
    return this.right(lane && lane.leases, t, "renewal");
  }

  hold(row, t, part) {
    const lane = this.lane("hold", row);
    return [["holds for", part("for")], ...this.right(lane && lane.holds, t, "heartbeat")];
  }

  right(segments, t, what) {
    const s = segments && segments.find(({ b, e }) => b <= t && t < e);
    if (!s) return [["state", "none"]];
    const last = s.renewals[upperBound(s.renewals, t) - 1];
    return [["since", seconds(s.b)], [`last ${what} before`, `${seconds(last)}, ${duration(t - last)} ago`],
      ["in all", renewedText(s)], ["end", endText(this.model, s, what)]];
  }

  msg(row, t, part) {
    const { msg } = this.model.trace.tables;
    const at = msg.at[row];
    return [
      ["kind", part("kind")], ["says", part("says")], ["from", part("from")], ["to", part("to")], ["term", part("term")],
      ["sent", seconds(msg.t[row], 6)],
      ["arrives", Number.isNaN(at) ? "" : `${seconds(at, 6)}, after ${duration(at - msg.t[row])}`],
      ["fate", part("fate")],
    ];
  }

  log(row, t, part) {
    const fields = this.model.reader.value("log", "fields", row);
    const own = fields && typeof fields === "object" ? Object.entries(fields) : [];
    return [["event", part("name")], ["severity", part("level")],
      ...own.map(([name, value]) => [spaced(name), plainValue(value)])];
  }

  step(row, t, part) {
    return [["step", part("step")], ...this.between("step", row),
      ["result", part("ok") === "no" ? "failed" : "done"], ["error", part("error")]];
  }

  op(row, t, part) {
    return [["client", part("c")], ["operation", part("kind")], ["key", part("key")], ["value", part("value")],
      ["through the proxy of", part("via")], ["server", part("n")], ...this.between("op", row),
      ["outcome", part("result")], ["why", part("why")]];
  }

  ack(row, t, part) {
    return [["server", part("n")], ["value", part("value")], ["position", lsnText(this.model.reader.number("ack", "lsn", row))],
      ["timeline", part("tli")], ["branch", part("branch")]];
  }

  fault(row, t, part) {
    const args = this.model.reader.value("fault", "args", row);
    const found = this.model.faults.find((fault) => fault.row === row);
    const until = !found || found.instant ? "" : found.ended ? seconds(found.e) : "the end of the run";
    const own = args && typeof args === "object" ? Object.entries(args) : [];
    return [["fault", spaced(part("do"))], ["on", part("nodes")], ["from", seconds(t)], ["until", until],
      ...own.filter(([name]) => name !== "node").map(([name, value]) => [spaced(name),
        DURATIONS.has(name) && typeof value === "number" ? duration(value) : plainValue(value)])];
  }

  violation(row, t, part) {
    return [["check", spaced(part("check"))], ["means", checkMeaning(part("check"))], ["nodes", part("nodes")]];
  }

  between(kind, row) {
    const [begin, end] = ["begin", "end"].map((column) => this.model.reader.number(kind, column, row));
    return [["begin", begin === null ? "" : seconds(begin, 6)], ["end", end === null ? "" : seconds(end, 6)],
      ["took", begin === null || end === null ? "" : duration(end - begin)]];
  }
}

// Arguments of faults that are times, in ns.
const DURATIONS = new Set(["for", "delay", "jitter", "extra", "every", "hold", "down", "stagger", "period", "step"]);

const DETAIL_TITLES = {
  node: "agent", pg: "PostgreSQL", lease: "lease", hold: "hold", msg: "message", log: "log", step: "step",
  op: "operation", ack: "commit", fault: "fault", fault_end: "end of a fault", mark: "mark", phase: "phase",
  violation: "violation",
};

// Columns that the kind's own method tells of, or that say nothing.
const DETAIL_TOLD = {
  node: ["n", "role", "term", "promised", "leader", "agent", "host", "guard", "armed"],
  pg: ["n", "process", "recovery", "frozen", "tli", "branch", "lsn", "upstream", "sync", "k", "admit", "data"],
  lease: ["n", "until"], hold: ["n", "until", "for"],
  msg: ["id", "from", "to", "kind", "term", "at", "fate", "says"],
  log: ["n", "name", "level", "fields"],
  step: ["n", "step", "begin", "end", "ok", "error"],
  op: ["id", "c", "kind", "key", "value", "via", "n", "begin", "end", "result", "why"],
  ack: ["n", "tli", "branch", "lsn", "value"],
  fault: ["id", "do", "nodes", "args"], fault_end: ["id"], mark: ["n"],
  violation: ["check", "nodes", "causes", "notes"],
};

// Any value without the signs of JSON.
function plainValue(value) {
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(plainValue).join(", ") || "none";
  if (typeof value === "object") {
    return Object.entries(value).map(([name, part]) => `${name} ${plainValue(part)}`).join("; ");
  }
  return String(value);
}
