"use strict";
// Which part of the run is seen, where the cursor stands, and the address (#…) that says so.

const SPAN_MIN = 20e3; // ns; a message takes about a millisecond
const MARGIN = 0.04; // of the run, seen beyond its ends at most

class View {
  constructor(model, changed) {
    this.model = model;
    this.changed = changed; // called after every change, to draw
    this.kinds = new Set(); // message kinds that are drawn
    this.showGroup("agreement", true);
    this.usual = this.kindNames(); // not worth a word in the address
    this.filter = "";
    this.level = 1; // of LEVELS; lower ones are not listed
    this.selected = null; // {kind, row}
    this.hover = null; // time under the pointer
    this.cursor = model.violation ? model.violation.t : model.end;
    this.width = 1000; // pixels of the drawn range
    this.start();
  }

  start() {
    if (this.model.violation) this.toViolation();
    else this.toAll();
  }

  toAll() {
    const { begin, end } = this.model;
    const margin = (end - begin) * 0.015;
    this.show(begin - margin, end + margin);
  }

  toViolation() {
    const { violation } = this.model;
    if (!violation) return;
    const times = violation.causes.map((cause) => cause.t).filter((t) => t <= violation.t);
    const first = times.length ? times[0] : violation.t - 3e9;
    const span = Math.max(violation.t - first, 200e6);
    // Every cause is seen, however old; and a little at the right, where labels stand.
    this.show(first - span * 0.05, violation.t + span * 0.15);
    this.cursor = violation.t;
  }

  show(begin, end) {
    const { model } = this;
    const run = model.end - model.begin;
    const margin = run * MARGIN;
    let span = Math.min(Math.max(end - begin, SPAN_MIN), run + 2 * margin);
    if (!(span > 0)) span = run;
    const middle = (begin + end) / 2;
    const slack = Math.max(margin, span * 0.2);
    const low = model.begin - slack;
    const high = model.end + slack - span;
    this.b = Math.max(Math.min(middle - span / 2, high), Math.min(low, high));
    this.e = this.b + span;
    this.changed();
  }

  get span() { return this.e - this.b; }

  x(t) { return GUTTER + ((t - this.b) / this.span) * this.width; }

  t(x) { return this.b + ((x - GUTTER) / this.width) * this.span; }

  pan(share) { this.show(this.b + this.span * share, this.e + this.span * share); }

  // Zoom by a factor (below 1: closer), keeping the time at this place where it is.
  zoom(factor, at = this.centre()) {
    const run = this.model.end - this.model.begin;
    const span = Math.min(Math.max(this.span * factor, SPAN_MIN), run * (1 + 2 * MARGIN));
    const share = (at - this.b) / this.span;
    this.show(at - span * share, at - span * share + span);
  }

  // The cursor if it is seen, else the middle.
  centre() {
    return this.cursor > this.b && this.cursor < this.e ? this.cursor : (this.b + this.e) / 2;
  }

  setCursor(t, { reveal = false } = {}) {
    this.cursor = Math.max(this.model.begin, Math.min(this.model.end, t));
    if (reveal && (this.cursor < this.b + this.span * 0.04 || this.cursor > this.e - this.span * 0.04)) {
      this.show(this.cursor - this.span / 2, this.cursor + this.span / 2);
    }
    this.changed();
  }

  // Look at one event, from near enough to tell it from its neighbours.
  go(ref) {
    this.selected = { kind: ref.kind, row: ref.row };
    const t = this.model.timeOf(ref);
    if (ref.kind === "msg" && this.span > 1e9) this.show(t - 100e6, t + 100e6);
    this.setCursor(t, { reveal: true });
  }

  showGroup(name, on) {
    const group = this.model.messages.find((each) => each.name === name);
    for (const kind of group ? group.kinds : []) {
      if (on) this.kinds.add(kind.name);
      else this.kinds.delete(kind.name);
    }
  }

  // ---------------------------------------------------------------- address

  address() {
    const parts = new URLSearchParams();
    parts.set("t", (this.cursor / 1e9).toFixed(6).replace(/\.?0+$/, ""));
    parts.set("zoom", trimmedSeconds(this.span));
    parts.set("c", ((this.b + this.e) / 2e9).toFixed(6).replace(/\.?0+$/, ""));
    if (this.filter) parts.set("filter", this.filter);
    if (this.level !== 1) parts.set("level", String(this.level));
    const kinds = this.kindNames();
    if (kinds !== this.usual) parts.set("kinds", kinds || "none");
    if (this.selected) {
      const { kind, row } = this.selected;
      parts.set("sel", String(this.model.trace.tables[kind].i[row]));
    }
    return parts;
  }

  // Groups that are shown as a whole by their name, other kinds one by one.
  kindNames() {
    const names = [];
    for (const group of this.model.messages) {
      const on = group.kinds.filter((kind) => this.kinds.has(kind.name));
      if (on.length === group.kinds.length) names.push(group.name);
      else names.push(...on.map((kind) => kind.name));
    }
    return names.join(",");
  }

  // Take a view from an address: t (cursor, s), zoom (seconds seen), c (their middle), filter,
  // level, kinds, sel (running number of an event). What is missing stays.
  restore(parts) {
    const number = (key) => (parts.has(key) && parts.get(key) !== "" ? Number(parts.get(key)) : NaN);
    const [t, zoom, middle] = [number("t"), number("zoom"), number("c")].map((value) => value * 1e9);
    if (parts.has("kinds")) {
      this.kinds.clear();
      for (const name of parts.get("kinds").split(",")) {
        if (this.model.messages.some((group) => group.name === name)) this.showGroup(name, true);
        else this.kinds.add(name);
      }
    }
    if (parts.has("filter")) this.filter = parts.get("filter");
    if (parts.has("level")) {
      const level = parts.get("level");
      this.level = level.toUpperCase() in LEVELS ? LEVELS[level.toUpperCase()] : Number(level) || 0;
    }
    if (parts.has("sel")) this.selected = this.model.reader.find(number("sel"));
    if (!Number.isNaN(t)) this.cursor = Math.max(this.model.begin, Math.min(this.model.end, t));
    const span = Number.isNaN(zoom) || zoom <= 0 ? this.span : zoom;
    const at = !Number.isNaN(middle) ? middle : !Number.isNaN(t) ? t : (this.b + this.e) / 2;
    this.show(at - span / 2, at + span / 2);
  }
}

function trimmedSeconds(ns) {
  return String(Number((ns / 1e9).toPrecision(6)));
}
