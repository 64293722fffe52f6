"use strict";
// Draw the numbers of the causes, and a ring around what is selected. A number stands in a row of
// its own above the lane, in the order of time and as near to its time as the neighbours leave
// room; a line leads from it to the event itself. The numbers of faults are in faults.js.

const BADGE = 8.5; // px, radius
const BADGE_STEP = 19; // px, between two of one row

class Markers {
  constructor(ctx, model, view, theme, layout) {
    Object.assign(this, { ctx, model, view, theme, layout });
    this.right = GUTTER + view.width;
    this.badges = []; // {cause, x, y, at}: circle, and where the event is
  }

  c(key) { return this.theme.colour(key); }

  // Where an event is on the lanes, or null: it is not on a lane, or not seen.
  place({ kind, row }, t = this.model.timeOf({ kind, row }), share = 0.5) {
    const { layout, model, view } = this;
    const x = view.x(t);
    if (x < GUTTER || x > this.right) return null;
    if (kind === "op") {
      const at = layout.clients.get(model.reader.text("op", "c", row));
      return at ? { x, y: at.y + at.h / 2 } : null;
    }
    if (kind === "ack") return layout.acks ? { x, y: layout.acks.y + layout.acks.h / 2 } : null;
    const at = layout.nodes.get(model.laneOf(kind, row));
    if (!at) return null;
    if (kind === "msg") {
      const to = layout.nodes.get(model.reader.text("msg", "to", row));
      return { x, y: to && to.y > at.y ? at.y + at.h : at.y };
    }
    const part = { node: "role", pg: "server", lease: "lease", hold: "lease", step: "step" }[kind] || "log";
    return { x, y: (at[part] === undefined ? at.y : at[part]) + layout.row[part] * share };
  }

  causes() {
    const { ctx, model, layout } = this;
    if (!model.violation) return;
    const rows = new Map(); // lane → what is to stand above it
    for (const cause of model.violation.causes) {
      const at = this.place(cause, cause.t, 0.06); // at the upper edge: words stand below
      if (!at) continue;
      const lane = model.laneOf(cause.kind, cause.row);
      if (!rows.has(lane)) rows.set(lane, []);
      rows.get(lane).push({ cause, at });
    }
    for (const [lane, list] of rows) {
      const top = lane === "clients" ? layout.cause : layout.nodes.get(lane).cause;
      const y = top + BADGE + 0.5;
      const xs = spread(list.map(({ at }) => at.x), BADGE_STEP, GUTTER + BADGE + 1, this.right - BADGE - 1);
      list.forEach(({ cause, at }, k) => this.badges.push({ cause, x: xs[k], y, at }));
    }
    ctx.strokeStyle = ctx.fillStyle = this.c("bad");
    for (const { x, y, at } of this.badges) {
      const foot = at.y < y ? y - BADGE : y + layout.row.cause - BADGE;
      ctx.globalAlpha = 0.6;
      ctx.beginPath();
      ctx.moveTo(x, y);
      ctx.lineTo(at.x, foot);
      ctx.lineTo(at.x, at.y);
      ctx.stroke();
      ctx.globalAlpha = 1;
      ctx.beginPath();
      ctx.arc(at.x, at.y, 2.5, 0, 2 * Math.PI);
      ctx.fill();
    }
    for (const { x, y, cause } of this.badges) drawBadge(ctx, this.theme, x, y, cause.number);
  }

  selection() {
    const { ctx, view, model } = this;
    const { selected } = view;
    if (!selected) return;
    // What holds for a while is marked where it was asked for.
    const where = model.holdsAt(selected, view.cursor) ? this.place(selected, view.cursor)
      : this.place(selected);
    if (!where) return;
    ctx.strokeStyle = this.c("select");
    ctx.lineWidth = 3;
    ctx.beginPath();
    ctx.arc(where.x, where.y, 12, 0, 2 * Math.PI);
    ctx.stroke();
    ctx.lineWidth = 1;
  }
}

function drawBadge(ctx, theme, x, y, number) {
  font(ctx, 11, "700");
  ctx.beginPath();
  ctx.arc(x, y, BADGE, 0, 2 * Math.PI);
  ctx.fillStyle = theme.colour("bad");
  ctx.fill();
  ctx.strokeStyle = theme.colour("bg");
  ctx.lineWidth = 1.5;
  ctx.stroke();
  ctx.lineWidth = 1;
  ctx.fillStyle = theme.ink(theme.colour("bad"));
  ctx.textAlign = "center";
  ctx.fillText(String(number), x, y + 0.5);
  ctx.textAlign = "left";
}

// Places for things that want to stand at these places (ascending): in this order, at least a step
// apart and between low and high, moved no further than they must be.
function spread(wanted, step, low, high) {
  const apart = Math.min(step, (high - low) / Math.max(1, wanted.length - 1));
  const groups = []; // of neighbours that touch: {sum, count} of the places that they want
  wanted.forEach((x, at) => {
    groups.push({ sum: x - at * apart, count: 1 });
    while (groups.length > 1) {
      const [one, two] = groups.slice(-2);
      if (one.sum / one.count <= two.sum / two.count) break;
      groups.splice(-2, 2, { sum: one.sum + two.sum, count: one.count + two.count });
    }
  });
  const places = groups.flatMap(({ sum, count }) => new Array(count).fill(sum / count));
  return places.map((x, at) => Math.max(low + at * apart,
    Math.min(x + at * apart, high - (wanted.length - 1 - at) * apart)));
}
