"use strict";
// Draw faults: shaded behind the lanes that they touch, with who is cut off from whom; and the
// strip above the lanes, which holds the axis, the phases and the faults' labels.

const TOP = { axis: 24, phase: 15, fault: 17 };

class FaultPainter {
  constructor(ctx, model, view, theme, layout) {
    Object.assign(this, { ctx, model, view, theme, layout });
    this.right = GUTTER + view.width;
    this.drawnFaults = []; // {fault, x0, x1, y0, y1}, for the pointer
    this.badges = []; // numbers of causes on the bands
    this.dashes = []; // where a partition is drawn, in the same form as the chips
    this.chips = []; // plates between the lanes, which other words avoid: [left, top, right, bottom, text]
  }

  c(key) { return this.theme.colour(key); }

  span(fault) {
    const x0 = Math.max(GUTTER, this.view.x(fault.b));
    const x1 = Math.min(this.right, this.view.x(fault.e));
    return fault.e < this.view.b || fault.b > this.view.e ? null : [x0, Math.max(x0 + 1, x1)];
  }

  // Behind the lanes. However many faults there are at a time, there are two shades: one, and more.
  shades() {
    const { ctx, layout } = this;
    const lanes = new Map(); // band → [x, +1 or -1], and what is only a line
    for (const fault of this.model.faults) {
      const span = this.span(fault);
      if (!span) continue;
      for (const band of this.bands(fault)) {
        if (!lanes.has(band)) lanes.set(band, []);
        lanes.get(band).push([span[0], 1, this.view.x(fault.b) >= GUTTER],
          [span[1], -1, fault.ended && this.view.x(fault.e) <= this.right && !fault.instant]);
      }
    }
    for (const [band, edges] of lanes) {
      const [y, h] = layout.nodes.has(band)
        ? [layout.nodes.get(band).y - layout.gap / 2, layout.nodes.get(band).h + layout.gap]
        : [layout.clients.get(band).y, layout.clients.get(band).h];
      edges.sort((one, other) => one[0] - other[0]);
      let depth = 0;
      let from = 0;
      for (const [x, step, line] of edges) {
        for (let level = 0; level < Math.min(depth, 2); level++) {
          ctx.fillStyle = this.c("shade");
          ctx.fillRect(from, y, x - from, h);
        }
        depth += step;
        from = x;
        if (line) {
          ctx.fillStyle = this.c("fault-line");
          ctx.fillRect(step > 0 ? x : x - 1, y, 1, h);
        }
      }
    }
  }

  // Names of the lanes that a fault touches; all nodes' if it names none.
  bands(fault) {
    const { layout } = this;
    const clients = [...layout.clients.keys()].filter((name) => fault.clients || fault.nodes.includes(name));
    const named = [...layout.nodes.keys()].filter((name) => fault.nodes.includes(name));
    return [...(named.length || clients.length ? named : layout.nodes.keys()), ...clients];
  }

  // Before the lanes: between them, where it can be seen who is apart from whom.
  separations() {
    for (const fault of this.model.faults) {
      const span = this.span(fault);
      if (!span || fault.instant) continue;
      if (fault.groups.length) this.groups(fault, ...span);
      else if (fault.cuts.length) this.cuts(fault, ...span);
    }
    this.ctx.setLineDash([]);
    this.ctx.lineWidth = 1;
  }

  groups(fault, x0, x1) {
    const { ctx, layout } = this;
    const side = new Map();
    fault.groups.forEach((names, at) => names.forEach((name) => side.set(name, at)));
    let above = null;
    for (const [name, place] of layout.nodes) {
      const mine = side.get(name);
      if (above && mine !== undefined && above.side !== undefined && above.side !== mine) {
        const y = place.y - layout.gap / 2;
        ctx.strokeStyle = this.c("bad");
        ctx.lineWidth = 2.5;
        ctx.setLineDash([9, 5]);
        ctx.beginPath();
        ctx.moveTo(x0, y);
        ctx.lineTo(x1, y);
        ctx.stroke();
        this.dashes.push([x0, y - 2, x1, y + 2]);
      }
      above = { side: mine };
      if (mine === undefined || x1 - x0 < 26) continue;
      // Lanes of one side need not be neighbours: each says which side it is on.
      if (fault.what === "isolate") {
        // The last group are all the others: they are where they were.
        if (mine + 1 < fault.groups.length) this.chip(`alone${fault.way}`, "alone", x0 + 3, place, x1 - x0 - 4);
        continue;
      }
      const letter = "ABCDEFGHI"[mine % 9];
      this.chip(`side ${letter}${mine === 0 ? fault.way : ""}`, letter, x0 + 3, place, x1 - x0 - 4);
    }
  }

  cuts(fault, x0, x1) {
    const targets = new Map();
    for (const [from, to] of fault.cuts) targets.set(from, [...(targets.get(from) || []), to]);
    for (const [from, to] of targets) {
      const place = this.layout.nodes.get(from);
      this.chip(`${fault.what} → ${to.join(", ")}`, "✕", x0 + 3, place, x1 - x0 - 4);
    }
  }

  // Keep room for a word on a plate just above a lane, beside those that stand there already.
  chip(text, short, x, place, room) {
    const { ctx } = this;
    font(ctx, 11, "600");
    const said = textWidth(ctx, text) + 8 <= room ? text : short;
    const width = textWidth(ctx, said) + 8;
    if (width > room) return;
    const y = place.y - 15;
    let left = x;
    for (const box of this.chips) {
      if (box[1] === y && box[0] < left + width && box[2] > left) left = box[2] + 3;
    }
    if (left + width > x + room) return;
    this.chips.push([left, y, left + width, y + 14, said]);
  }

  // The plates, once everything is drawn that they may stand on.
  words() {
    const { ctx } = this;
    font(ctx, 11, "600");
    ctx.strokeStyle = this.c("bad");
    for (const [left, top, right, , said] of this.chips) {
      ctx.fillStyle = this.c("bg");
      ctx.fillRect(left, top, right - left, 14);
      ctx.strokeRect(left + 0.5, top + 0.5, right - left - 1, 13);
      ctx.fillStyle = this.c("bad");
      ctx.fillText(said, left + 4, top + 7.5);
    }
  }

  // ---------------------------------------------------------------- above the lanes

  static height(model) {
    return TOP.axis + (model.phases.length ? TOP.phase : 0) + model.faultRows * TOP.fault + 4;
  }

  strip() {
    const { ctx, model } = this;
    ctx.fillStyle = this.c("panel");
    ctx.fillRect(0, 0, GUTTER - 1, FaultPainter.height(model));
    let y = TOP.axis;
    if (model.phases.length) {
      this.phases(y);
      y += TOP.phase;
    }
    this.labels(y);
    this.side("time", TOP.axis / 2 + 1);
    if (model.phases.length) this.side("phase", TOP.axis + TOP.phase / 2);
  }

  side(text, y) {
    const { ctx } = this;
    font(ctx, 11);
    ctx.fillStyle = this.c("dim");
    ctx.textAlign = "right";
    ctx.fillText(text, GUTTER - 8, y);
    ctx.textAlign = "left";
  }

  // Vertical lines of the axis go through all lanes; the caller says how far.
  grid(height) {
    const { ctx, view } = this;
    ctx.fillStyle = this.c("grid");
    for (const t of this.ticks().times) ctx.fillRect(Math.round(view.x(t)), 0, 1, height);
    ctx.fillStyle = this.c("beyond");
    const begin = Math.max(GUTTER, Math.min(this.right, view.x(this.model.begin)));
    const end = Math.max(GUTTER, Math.min(this.right, view.x(this.model.end)));
    ctx.fillRect(GUTTER, 0, begin - GUTTER, height);
    ctx.fillRect(end, 0, this.right - end, height);
  }

  ticks() {
    const { view } = this;
    const wanted = (view.span / view.width) * 95;
    const power = 10 ** Math.floor(Math.log10(wanted));
    const step = Math.max(1, [1, 2, 5, 10].find((each) => each * power >= wanted) * power);
    const times = [];
    for (let k = Math.ceil(view.b / step); k * step <= view.e; k++) times.push(k * step);
    return { times, digits: Math.max(0, Math.min(9, Math.ceil(9 - Math.log10(step) - 1e-9))) };
  }

  axis(markers) {
    const { ctx, view } = this;
    const taken = markers.map(({ x, width }) => [x - width / 2 - 4, x + width / 2 + 4]);
    const { times, digits } = this.ticks();
    font(ctx, 11.5);
    for (const t of times) {
      const x = view.x(t);
      ctx.fillStyle = this.c("dim");
      ctx.fillRect(Math.round(x), TOP.axis - 5, 1, 5);
      const text = seconds(t, digits);
      const half = textWidth(ctx, text) / 2;
      if (x - half < GUTTER || x + half > this.right) continue;
      if (taken.some(([from, to]) => x + half > from && x - half < to)) continue;
      ctx.fillText(text, x - half, TOP.axis / 2 - 1);
    }
  }

  phases(y) {
    const { ctx, view } = this;
    font(ctx, 11);
    for (const phase of this.model.phases) {
      if (phase.e < view.b || phase.b > view.e) continue;
      const x0 = Math.max(GUTTER, view.x(phase.b));
      const x1 = Math.min(this.right, view.x(phase.e));
      ctx.fillStyle = this.c("row");
      ctx.fillRect(x0 + 1, y, Math.max(0, x1 - x0 - 1), TOP.phase - 2);
      ctx.fillStyle = this.c("dim");
      ctx.fillText(fitted(ctx, phase.name, x1 - x0 - 10), x0 + 6, y + TOP.phase / 2 - 0.5);
    }
  }

  labels(y) {
    const { model } = this;
    font(this.ctx, 11.5);
    const taken = Array.from({ length: model.faultRows }, () => []);
    this.drawnFaults = [];
    this.badges = [];
    let hidden = 0;
    const seen = model.faults.map((fault) => ({ fault, span: this.span(fault), causes: this.causesOf(fault) }))
      .filter(({ span }) => span);
    // Those that led to the violation get their room first.
    for (const each of [...seen.filter(({ causes }) => causes.length), ...seen.filter(({ causes }) => !causes.length)]) {
      const [x0, x1] = each.span;
      const said = x0 + textWidth(this.ctx, each.fault.text) + 12 + each.causes.length * BADGE_STEP;
      const end = Math.min(this.right, Math.max(x1, said));
      const row = taken.findIndex((spans) => spans.every(([from, to]) => end + 3.5 < from || x0 > to + 3.5));
      if (row < 0) hidden += 1;
      else {
        taken[row].push([x0, end]);
        this.label(each, x0, x1, end, y + row * TOP.fault);
      }
    }
    const room = model.faultRows > 1 ? 1.5 : 0.5;
    this.side(hidden && room < 1 ? `faults, +${hidden}` : "faults", y + TOP.fault / 2);
    if (hidden && room > 1) this.side(`+${hidden} more`, y + TOP.fault * room);
  }

  // The causes that are this fault's beginning or end.
  causesOf({ row }) {
    const { violation, reader } = this.model;
    if (!violation) return [];
    const id = reader.number("fault", "id", row);
    return violation.causes.filter((cause) => (cause.kind === "fault" ? cause.row === row
      : cause.kind === "fault_end" && reader.number("fault_end", "id", cause.row) === id));
  }

  label({ fault, causes }, x0, x1, end, top) {
    const { ctx, view } = this;
    const h = TOP.fault - 2;
    ctx.fillStyle = this.c("fault-bar");
    ctx.fillRect(x0, top, Math.max(2, x1 - x0), h);
    if (fault.b >= view.b) {
      ctx.fillStyle = this.c("fault-edge");
      ctx.fillRect(x0, top, 2, h);
    }
    const { selected } = view;
    if (selected && selected.kind === "fault" && selected.row === fault.row) {
      ctx.strokeStyle = this.c("select");
      ctx.lineWidth = 2;
      ctx.strokeRect(x0 + 1, top + 1, Math.max(2, x1 - x0) - 2, h - 2);
      ctx.lineWidth = 1;
    }
    let left = x0 + 6;
    for (const cause of causes) {
      const at = { x: left + BADGE - 3, y: top + h / 2 };
      drawBadge(ctx, this.theme, at.x, at.y, cause.number);
      this.badges.push({ cause, ...at, at });
      left += BADGE_STEP;
    }
    font(ctx, 11.5);
    ctx.fillStyle = this.c("ink");
    ctx.fillText(fitted(ctx, fault.text, end - left - 2), left, top + h / 2 + 0.5);
    this.drawnFaults.push({ fault, x0, x1: end, y0: top, y1: top + h });
  }
}
