"use strict";
// Draw the axis, faults, writes per second and their latency.

class ChartPainter {
  constructor(ctx, data, view, theme, layout) {
    Object.assign(this, { ctx, data, view, theme, layout });
    this.right = GUTTER + view.width;
  }

  c(key) { return this.theme.colour(key); }

  // The finest buckets that are not narrower than a pixel or so.
  level(least = 1.2) {
    const { levels } = this.data;
    const pixels = (level) => (level.width / this.view.span) * this.view.width;
    return levels.find((level) => pixels(level) >= least) || levels[levels.length - 1];
  }

  // First and last bucket of a level that are seen.
  seen(level, count) {
    const first = Math.floor((this.view.b - level.begin) / level.width);
    const last = Math.ceil((this.view.e - level.begin) / level.width);
    return [Math.max(0, first), Math.min(count - 1, last)];
  }

  labels() {
    const { ctx } = this;
    for (const { kind, y, h, label } of this.layout.lanes) {
      ctx.fillStyle = this.c(kind === "node" || kind === "client" ? "ink" : "dim");
      font(ctx, kind === "client" ? 11 : 12, kind === "node" ? "600" : "");
      const middle = kind === "node" ? y + 11 : kind === "faults" ? y + 11 : y + Math.min(h, 18) / 2;
      ctx.fillText(fitted(ctx, label, GUTTER - 10), 0, middle);
    }
  }

  inside(draw) {
    const { ctx } = this;
    ctx.save();
    ctx.beginPath();
    ctx.rect(GUTTER, 0, this.view.width, this.layout.height);
    ctx.clip();
    draw();
    ctx.restore();
  }

  axis() {
    const { ctx, view } = this;
    const [{ y, h }] = this.layout.of("axis");
    const step = niceStep(view.span / (view.width / 90));
    const digits = Math.max(0, Math.min(3, -Math.floor(Math.log10(step) + 1e-9)));
    font(ctx, 11);
    for (let at = Math.ceil(view.b / step); at * step <= view.e; at++) {
      const x = Math.round(view.x(at * step)) + 0.5;
      ctx.fillStyle = this.c("grid");
      ctx.fillRect(x, y + 18, 1, this.layout.height);
      ctx.fillStyle = this.c("dim");
      const text = moment(at * step, digits);
      const width = textWidth(ctx, text);
      if (x - width / 2 > 0 && x + width / 2 < this.right + RIGHT) ctx.fillText(text, x - width / 2, y + 9);
    }
    this.phases(y + 18, h - 20);
  }

  phases(y, h) {
    const { ctx, view, data } = this;
    data.phases.forEach(([t, name], at) => {
      const next = data.phases[at + 1];
      const x0 = Math.max(GUTTER, view.x(t));
      const x1 = Math.min(this.right, view.x(next ? next[0] : data.end));
      if (x1 <= GUTTER || x0 >= this.right) return;
      ctx.fillStyle = this.c("row");
      ctx.fillRect(x0, y, Math.max(1, x1 - x0 - 1), h);
      ctx.fillStyle = this.c("ink");
      font(ctx, 11);
      const room = Math.max(x1 - x0, next ? 0 : this.right + RIGHT - x0) - 8;
      ctx.fillText(fitted(ctx, name, room), x0 + 5, y + h / 2 + 0.5);
    });
  }

  // Outages through all lanes, and edges of the faults where there is room.
  shades() {
    const { ctx, view, data, layout } = this;
    const top = layout.of("writes")[0].y - 4;
    for (const gap of data.outages) {
      const x0 = view.x(gap.begin);
      ctx.fillStyle = this.c("gap");
      ctx.fillRect(x0, top, Math.max(1.5, view.x(gap.end) - x0), layout.height - top);
    }
  }

  faults() {
    const { ctx, view, data, layout } = this;
    const [{ y }] = layout.of("faults");
    font(ctx, 11);
    if (!data.faults.length) {
      ctx.fillStyle = this.c("dim");
      ctx.fillText("none", GUTTER + 4, y + 11);
    }
    const rows = Array.from({ length: layout.faults.rows }, () => []);
    data.faults.forEach((fault, at) => rows[layout.faults.rowOf[at]].push(fault));
    rows.forEach((row, line) => row.forEach((fault, at) => {
      const x0 = view.x(fault.begin);
      const x1 = Math.max(x0 + 3, fault.end === null ? 0 : view.x(fault.end));
      const next = row[at + 1] ? view.x(row[at + 1].begin) : this.right + RIGHT;
      if (x1 < GUTTER || x0 > this.right) return;
      const top = y + line * FAULT_H;
      const from = Math.max(GUTTER, x0);
      ctx.fillStyle = this.c("fault-bar");
      ctx.fillRect(from, top, Math.max(0, x1 - from), FAULT_H - 3);
      ctx.fillStyle = this.c("fault-edge");
      ctx.fillRect(x0, top, 2, FAULT_H - 3);
      const begin = fault.end === null || x1 - from < 12 ? Math.max(from, x1) + 3 : from + 6;
      const text = fitted(ctx, fault.text, next - begin - 4);
      ctx.fillStyle = this.c("ink");
      ctx.fillText(text, begin, top + (FAULT_H - 3) / 2 + 0.5);
    }));
  }

  writes() {
    const { ctx, view, data, layout } = this;
    const [{ y, h }] = layout.of("writes");
    const level = this.level();
    const [first, last] = this.seen(level, level.writes.length);
    let most = 0;
    for (let at = first; at <= last; at++) most = Math.max(most, level.writes[at]);
    most = Math.max(most, this.mostReads() * level.width);
    const top = niceStep(most / level.width) || 1;
    const height = (count) => (count / level.width / top) * (h - 4);
    this.scale(y, h, [[0, "0"], [top / 2, grouped(top / 2)], [top, `${grouped(top)}/s`]],
      (value) => y + h - height(value * level.width));
    const edge = (at) => view.x(level.begin + at * level.width);
    ctx.beginPath();
    ctx.moveTo(edge(first), y + h);
    for (let at = first; at <= last; at++) {
      const level_y = y + h - height(level.writes[at]);
      ctx.lineTo(edge(at), level_y);
      ctx.lineTo(edge(at + 1), level_y);
    }
    ctx.lineTo(edge(last + 1), y + h);
    ctx.fillStyle = this.c("writes-fill");
    ctx.fill();
    this.steps(level.writes, "writes", level, first, last, (n) => y + h - height(n));
    // Reads are there to compare with: coarser, so that the writes stay in sight.
    const coarse = this.level(5);
    this.steps(coarse.reads, "reads", coarse, ...this.seen(coarse, coarse.reads.length),
      (n) => y + h - height((n / coarse.width) * level.width));
    this.lengths(y);
  }

  // The highest reads per second that are seen.
  mostReads() {
    const level = this.level(5);
    const [first, last] = this.seen(level, level.reads.length);
    let most = 0;
    for (let at = first; at <= last; at++) most = Math.max(most, level.reads[at]);
    return most / level.width;
  }

  steps(values, colour, level, first, last, place) {
    const { ctx, view } = this;
    ctx.beginPath();
    let before = null;
    for (let at = first; at <= last; at++) {
      const value = values[at];
      const x = view.x(level.begin + at * level.width);
      if (value !== null) {
        if (before === null) ctx.moveTo(x, place(value));
        else ctx.lineTo(x, place(value));
        ctx.lineTo(view.x(level.begin + (at + 1) * level.width), place(value));
      }
      before = value;
    }
    ctx.strokeStyle = this.c(colour);
    ctx.lineWidth = 1;
    ctx.stroke();
  }

  scale(y, h, marks, place) {
    const { ctx } = this;
    ctx.strokeStyle = this.c("line");
    ctx.lineWidth = 1;
    ctx.strokeRect(GUTTER + 0.5, y + 0.5, this.view.width - 1, h - 1);
    this.marks = [...(this.marks || []), ...marks.map(([value, text]) => [place(value), text])];
    ctx.fillStyle = this.c("grid");
    for (const [value] of marks) ctx.fillRect(GUTTER + 1, Math.round(place(value)), this.view.width - 2, 1);
  }

  // The numbers of the scales, outside of the clipped drawing.
  numbers() {
    const { ctx } = this;
    font(ctx, 10.5);
    ctx.fillStyle = this.c("dim");
    ctx.textAlign = "right";
    for (const [y, text] of this.marks || []) ctx.fillText(text, GUTTER - 5, y);
    ctx.textAlign = "left";
  }

  // How long each outage was, above it.
  lengths(y) {
    const { ctx, view, data } = this;
    font(ctx, 11, "600");
    let taken = -Infinity;
    for (const gap of data.outages) {
      const [x0, x1] = [view.x(gap.begin), view.x(gap.end)];
      if (x1 < GUTTER || x0 > this.right) continue;
      ctx.fillStyle = this.c("gap-edge");
      ctx.fillRect(x0, y, Math.max(2, x1 - x0), 3);
      const text = `${milliseconds(gap.ms)}${gap.open ? " …" : ""}`;
      const width = textWidth(ctx, text) + 6;
      const left = Math.max(GUTTER + 2, Math.min(this.right - width, (x0 + x1 - width) / 2));
      if (left < taken) continue;
      ctx.fillStyle = this.c("bg");
      ctx.fillRect(left, y + 5, width, 15);
      ctx.fillStyle = this.c("gap-edge");
      ctx.fillText(text, left + 3, y + 13);
      taken = left + width;
    }
  }

  latency() {
    const { ctx, view, data, layout } = this;
    const [{ y, h }] = layout.of("latency");
    const level = this.level(3);
    const [first, last] = this.seen(level, level.p50.length);
    const all = data.levels[0];
    const ends = (this.latencyEnds ||= latencyEnds(all));
    const [low, high] = ends;
    const place = (ms) => y + h - 3 - ((Math.log10(Math.max(ms, low)) - Math.log10(low))
      / (Math.log10(high) - Math.log10(low))) * (h - 6);
    const marks = [];
    for (let ms = low; ms <= high * 1.001; ms *= 10) {
      marks.push([ms, ms < 1000 ? `${Number(ms.toPrecision(1))} ms` : `${ms / 1000} s`]);
    }
    this.scale(y, h, marks, place);
    this.steps(level.p99, "p99", level, first, last, place);
    this.steps(level.p50, "p50", level, first, last, place);
    ctx.strokeStyle = this.c("p99");
    for (const [, begin, end, outcome, what] of data.ops) {
      if (outcome !== 0 || what.startsWith("read") || end < view.b || end > view.e) continue;
      ctx.beginPath();
      ctx.arc(view.x(end), place((end - begin) * 1000), 2.5, 0, 2 * Math.PI);
      ctx.stroke();
    }
  }
}

// The powers of ten around all latencies.
function latencyEnds(level) {
  let low = Infinity;
  let high = 0;
  level.p50.forEach((value, at) => {
    if (value === null) return;
    low = Math.min(low, value);
    high = Math.max(high, level.p99[at]);
  });
  if (!high) return [1, 1000];
  const first = 10 ** Math.floor(Math.log10(Math.max(low, 0.1)));
  return [first, Math.max(first * 100, 10 ** Math.ceil(Math.log10(Math.max(high, 0.1))))];
}

// The smallest of 1, 2, 5, 10 … that is not below.
function niceStep(value) {
  if (!(value > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= value * 0.9999);
}
