"use strict";
// Which part of the run is seen, where the cursor stands, and the address (#…) that says so.

const SPAN_MIN = 0.02; // s
const MARGIN = 0.02; // of the run, seen beyond its ends at most

class View {
  constructor(data, changed) {
    this.data = data;
    this.changed = changed; // called after every change, to draw
    this.width = 1000; // pixels of the drawn range
    this.cursor = null; // time that was clicked
    this.hover = null; // {x, y, t} of the pointer
    this.range = null; // [from, to] while one is dragged
    this.all();
  }

  get run() { return this.data.end - this.data.begin; }

  get span() { return this.e - this.b; }

  all() {
    const margin = this.run * 0.005;
    this.show(this.data.begin - margin, this.data.end + margin);
  }

  get whole() { return this.span >= this.run; }

  show(begin, end) {
    const margin = this.run * MARGIN;
    const span = Math.min(Math.max(end - begin, SPAN_MIN), this.run + margin);
    const middle = (begin + end) / 2;
    const slack = Math.max(margin / 2, span * 0.1);
    const low = this.data.begin - slack;
    const high = this.data.end + slack - span;
    this.b = Math.max(Math.min(middle - span / 2, high), Math.min(low, high));
    this.e = this.b + span;
    this.changed();
  }

  x(t) { return GUTTER + ((t - this.b) / this.span) * this.width; }

  t(x) { return this.b + ((x - GUTTER) / this.width) * this.span; }

  pan(share) { this.show(this.b + this.span * share, this.e + this.span * share); }

  // Zoom by a factor (below 1: closer), keeping the time at this place where it is.
  zoom(factor, at = this.centre()) {
    const span = Math.min(Math.max(this.span * factor, SPAN_MIN), this.run * (1 + MARGIN));
    const share = (at - this.b) / this.span;
    this.show(at - span * share, at - span * share + span);
  }

  centre() {
    const seen = this.cursor !== null && this.cursor > this.b && this.cursor < this.e;
    return seen ? this.cursor : (this.b + this.e) / 2;
  }

  // Look at a moment with so many seconds around it.
  go(t, span) {
    this.cursor = Math.max(this.data.begin, Math.min(this.data.end, t));
    this.show(this.cursor - span / 2, this.cursor + span / 2);
  }

  address() {
    const parts = new URLSearchParams();
    if (this.cursor !== null) parts.set("t", trimmed(this.cursor));
    if (!this.whole) {
      parts.set("zoom", trimmed(this.span));
      parts.set("c", trimmed((this.b + this.e) / 2));
    }
    return parts;
  }

  // Take a view from an address: t (cursor), zoom (seconds seen), c (their middle).
  restore(parts) {
    const number = (key) => (parts.get(key) ? Number(parts.get(key)) : NaN);
    const [t, zoom, middle] = ["t", "zoom", "c"].map(number);
    if (Number.isFinite(t)) this.cursor = Math.max(this.data.begin, Math.min(this.data.end, t));
    const span = zoom > 0 ? zoom : this.span;
    const at = Number.isFinite(middle) ? middle : Number.isFinite(t) ? t : (this.b + this.e) / 2;
    this.show(at - span / 2, at + span / 2);
  }
}

function trimmed(s) {
  return String(Number(s.toFixed(3)));
}
