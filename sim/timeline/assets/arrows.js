"use strict";
// Draw messages between the lanes (a Lamport diagram), the pin of the violation, and the cursor.

const ARROWS_MAX = 700; // in the visible range; more are a black surface and say nothing
const LABELS_MAX = 60;

class ArrowPainter {
  constructor(ctx, model, view, theme, layout) {
    Object.assign(this, { ctx, model, view, theme, layout });
    this.right = GUTTER + view.width;
    this.drawn = []; // {row, x0, y0, x1, y1}, for the pointer
    this.hidden = 0; // messages of the wanted kinds that are too many to draw
    this.hiddenKinds = [];
  }

  c(key) { return this.theme.colour(key); }

  // `taken`: boxes ([left, top, right, bottom]) in which no name of a message may stand.
  // Kinds are drawn whole or not at all, for half of the heartbeats would mislead: by group,
  // agreement first, and of a group the rare ones first.
  messages(taken) {
    const { model, view } = this;
    let room = ARROWS_MAX;
    const rows = [];
    for (const group of model.messages) {
      const kinds = group.kinds.filter((kind) => view.kinds.has(kind.name))
        .map((kind) => ({ kind, count: kind.index.count(view.b, view.e) }));
      kinds.sort((a, b) => a.count - b.count);
      for (const { kind, count } of kinds) {
        if (count > room) {
          this.hidden += upperBound(kind.sent, view.e) - lowerBound(kind.sent, view.b);
          this.hiddenKinds.push(kind.name);
          continue;
        }
        room -= count;
        kind.index.visit(view.b, view.e, (row) => rows.push([row, group.name]));
      }
    }
    this.labelled = rows.length <= LABELS_MAX ? taken : null;
    for (const [row, group] of rows) this.aim(row, this.c(`msg-${group}`));
    for (const cause of model.violation ? model.violation.causes : []) {
      if (cause.kind === "msg") this.aim(cause.row, this.c("bad"), 2);
    }
    const { selected } = view;
    if (selected && selected.kind === "msg") this.aim(selected.row, this.c("select"), 3);
    // Through the lane of a third node an arrow is faint: that node has no part in it.
    this.within([...this.layout.nodes.values()].map(({ y, h }) => [y, h]), 0.22);
    this.within(this.gaps(), 1);
    if (this.labelled) for (const line of this.drawn) this.name(line);
    this.shown = rows.length;
  }

  gaps() {
    const gaps = [];
    let from = 0;
    for (const { y, h } of this.layout.nodes.values()) {
      gaps.push([from, y - from]);
      from = y + h;
    }
    gaps.push([from, this.layout.height - from]);
    return gaps;
  }

  // Draw all arrows where they are in these bands ([top, height]).
  within(bands, alpha) {
    const { ctx } = this;
    ctx.save();
    ctx.beginPath();
    for (const [y, h] of bands) ctx.rect(GUTTER, y, this.view.width, h);
    ctx.clip();
    ctx.globalAlpha = alpha;
    for (const line of this.drawn) this.draw(line);
    ctx.restore();
  }

  // Work out where a message's arrow goes.
  aim(row, colour, width = 1) {
    const { model, view, layout } = this;
    const { msg } = model.trace.tables;
    const from = layout.nodes.get(model.reader.text("msg", "from", row));
    const to = layout.nodes.get(model.reader.text("msg", "to", row));
    if (!from || !to || from === to) return;
    const fate = model.reader.text("msg", "fate", row);
    const down = to.y > from.y;
    const y0 = down ? from.y + from.h : from.y;
    const y1 = down ? to.y : to.y + to.h;
    const sent = msg.t[row];
    const reaches = !Number.isNaN(msg.at[row]) && fate !== "lost" && fate !== "cut";
    const arrives = orElse(msg.at[row], sent + model.usualFlight);
    // What never arrives ends in the gap beside its sender, before it crosses another lane.
    const share = reaches ? 1 : Math.min(0.6, (layout.gap * 0.55) / Math.abs(y1 - y0));
    const x0 = view.x(sent);
    const x1 = x0 + (view.x(arrives) - x0) * share;
    if (Math.max(x0, x1) < GUTTER || Math.min(x0, x1) > this.right) return;
    const clogged = fate === "clogged"; // held; when it gets out is not always known
    const end = clogged && !reaches ? "held" : clogged || fate === "delivered" ? "arrives" : "lost";
    this.drawn.push({ row, x0, y0, x1, y1: y0 + (y1 - y0) * share, width, down, end,
      colour: end !== "lost" || width > 1 ? colour : this.c("bad"), dashed: clogged });
  }

  draw({ x0, y0, x1, y1, colour, width, end, dashed }) {
    const { ctx } = this;
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = width;
    if (dashed) ctx.setLineDash([4, 3]);
    ctx.beginPath();
    ctx.moveTo(x0, y0);
    ctx.lineTo(x1, y1);
    ctx.stroke();
    if (dashed) ctx.setLineDash([]);
    ctx.beginPath();
    if (end === "held") {
      ctx.arc(x1, y1, 2.5, 0, 2 * Math.PI);
      ctx.stroke();
    } else if (end === "arrives") {
      const angle = Math.atan2(y1 - y0, x1 - x0);
      ctx.moveTo(x1, y1);
      for (const turn of [angle + 2.75, angle - 2.75]) {
        ctx.lineTo(x1 + 7 * Math.cos(turn), y1 + 7 * Math.sin(turn));
      }
      ctx.fill();
    } else {
      ctx.lineWidth = Math.max(1.5, width);
      for (const side of [-1, 1]) {
        ctx.moveTo(x1 - 3.5, y1 - 3.5 * side);
        ctx.lineTo(x1 + 3.5, y1 + 3.5 * side);
      }
      ctx.stroke();
    }
  }

  // The kind, beside the sender's end, where no other name stands and nothing runs through it.
  name(own) {
    const { row, x0: x, y0: y, down } = own;
    const { ctx } = this;
    font(ctx, 11);
    const text = this.model.reader.text("msg", "kind", row) || "";
    const width = textWidth(ctx, text);
    for (const [left, line] of [[x + 5, 8], [x + 5, 20], [x - width - 5, 8], [x - width - 5, 20]]) {
      if (line > this.layout.gap - 6) continue;
      const box = [left - 2, y + (down ? line : -line) - 6, left + width + 2, y + (down ? line : -line) + 6];
      if (box[0] < GUTTER || box[2] > this.right || this.crowded(box, own)) continue;
      this.labelled.push(box);
      ctx.fillStyle = this.c("dim");
      ctx.fillText(text, left, (box[1] + box[3]) / 2 + 0.5);
      return;
    }
  }

  // Whether a word, an arrow or one of the lines through all lanes is in the way.
  crowded(box, own) {
    const over = (o) => o[0] < box[2] && o[2] > box[0] && o[1] < box[3] && o[3] > box[1];
    return this.labelled.some(over) || this.uprights().some((x) => x > box[0] - 1 && x < box[2] + 1)
      || this.drawn.some((line) => line !== own && crosses(line, box));
  }

  uprights() {
    const { view, model } = this;
    return [view.cursor, ...(model.violation ? [model.violation.t] : [])].map((t) => view.x(t));
  }

  // The vertical lines that go through every canvas.
  lines(height) {
    const { ctx, view, model } = this;
    const line = (t, colour, width) => {
      const x = view.x(t);
      if (x < GUTTER || x > this.right) return;
      ctx.fillStyle = this.c(colour);
      ctx.fillRect(x - width / 2, 0, width, height);
    };
    if (model.violation) line(model.violation.t, "bad", 2);
    if (view.hover !== null) line(view.hover, "hover", 1);
    if (!model.violation || view.cursor !== model.violation.t) line(view.cursor, "select", 1.5);
  }

  // Heads of the lines, in the axis. Returns what of the axis they cover.
  heads(y, h) {
    const { ctx, view, model } = this;
    const heads = [];
    font(ctx, 11.5, "600");
    const add = (t, text, colour) => {
      const x = view.x(t);
      if (x < GUTTER - 1 || x > this.right + 1) return;
      const width = textWidth(ctx, text) + 12;
      const middle = Math.max(GUTTER + width / 2, Math.min(this.right - width / 2, x));
      if (heads.some((o) => Math.abs(o.x - middle) < (o.width + width) / 2 + 2)) return;
      heads.push({ x: middle, width, text, colour });
    };
    const pinned = model.violation && Math.abs(view.x(model.violation.t) - view.x(view.cursor)) < 4;
    if (model.violation) {
      add(model.violation.t, `violation${pinned ? ` ${seconds(model.violation.t)}` : ""}`, "bad");
    }
    if (!pinned) add(view.cursor, seconds(view.cursor), "select");
    for (const { x, width, text, colour } of heads) {
      ctx.fillStyle = this.c(colour);
      ctx.fillRect(x - width / 2, y, width, h);
      ctx.fillStyle = this.theme.ink(this.c(colour));
      ctx.fillText(text, x - width / 2 + 6, y + h / 2 + 0.5);
    }
    return heads;
  }
}

// Whether an arrow runs through a box ([left, top, right, bottom]).
function crosses({ x0, y0, x1, y1 }, [left, top, right, bottom]) {
  const [low, high] = y0 < y1 ? [Math.max(y0, top), Math.min(y1, bottom)]
    : [Math.max(y1, top), Math.min(y0, bottom)];
  if (low > high) return false;
  const at = (y) => (y1 === y0 ? x0 : x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
  return Math.max(at(low), at(high)) >= left && Math.min(at(low), at(high)) <= right;
}
