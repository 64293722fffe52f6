"use strict";
// Draw what the clients saw: how far commits were acknowledged, and every operation.

// The acknowledgements that are seen, and the ends of their scale: {first, last, low, high} or null.
function ackRange(model, view) {
  const { ack } = model.trace.tables;
  const { rows, t } = model.acks;
  const first = Math.max(0, upperBound(t, view.b) - 1);
  const last = Math.min(rows.length, upperBound(t, view.e) + 1);
  let low = Infinity;
  let high = -Infinity;
  for (let at = first; at < last; at++) {
    const lsn = ack.lsn[rows[at]];
    if (lsn < low) low = lsn;
    if (lsn > high) high = lsn;
  }
  return high < low ? null : { first, last, low, high };
}

class ClientPainter {
  constructor(ctx, model, view, theme, layout) {
    Object.assign(this, { ctx, model, view, theme, layout });
    this.right = GUTTER + view.width;
  }

  c(key) { return this.theme.colour(key); }

  all() {
    if (this.layout.acks) this.acknowledged();
    for (const [name, place] of this.layout.clients) this.client(name, place);
  }

  acknowledged() {
    const { ctx, model, view } = this;
    const { ack } = model.trace.tables;
    const { rows, t } = model.acks;
    const { y, h } = this.layout.acks;
    ctx.strokeStyle = this.c("line");
    ctx.strokeRect(GUTTER + 0.5, y + 0.5, view.width - 1, h - 1);
    const range = ackRange(model, view);
    if (!range) return;
    const { first, last, low, high } = range;
    const level = (lsn) => y + h - 4 - ((lsn - low) / Math.max(1, high - low)) * (h - 8);
    ctx.lineWidth = 2;
    let branch = null;
    let px = -1;
    const line = (colour) => {
      if (branch !== null) ctx.stroke();
      ctx.beginPath();
      ctx.strokeStyle = this.c(colour);
    };
    let previous = null;
    for (let at = first; at < last; at++) {
      const row = rows[at];
      const x = Math.max(GUTTER, Math.min(this.right, view.x(t[at])));
      const now = model.reader.text("ack", "branch", row);
      const level_y = level(ack.lsn[row]);
      if (now !== branch) {
        line(model.branchColour(now));
        ctx.fillStyle = this.c(model.branchColour(now));
        ctx.fillRect(x - 1.5, level_y - 1.5, 3, 3); // a branch may have no more than this one
        ctx.moveTo(x, level_y);
        branch = now;
      } else if (x - px >= 0.5 || at + 1 === last) {
        ctx.lineTo(x, previous);
        ctx.lineTo(x, level_y);
      } else continue;
      px = x;
      previous = level_y;
    }
    if (branch !== null) {
      ctx.lineTo(Math.min(this.right, view.x(model.end)), previous);
      ctx.stroke();
    }
    ctx.lineWidth = 1;
    this.ackAtCursor(level, y, h);
  }

  // A dot where the cursor is, with what was acknowledged by then.
  ackAtCursor(level, y, h) {
    const { ctx, model, view } = this;
    const { ack } = model.trace.tables;
    const { rows, t } = model.acks;
    const cursor = Math.max(view.b, Math.min(view.e, view.cursor));
    const at = upperBound(t, cursor) - 1;
    if (at < 0) return;
    const row = rows[at];
    const x = view.x(cursor);
    const level_y = level(ack.lsn[row]);
    const branch = model.reader.text("ack", "branch", row);
    ctx.fillStyle = this.c(model.branchColour(branch));
    ctx.beginPath();
    ctx.arc(x, level_y, 3.5, 0, 2 * Math.PI);
    ctx.fill();
    font(ctx, 11);
    const text = `${lsnText(ack.lsn[row])} · ${branch} at ${seconds(cursor)}`;
    const width = textWidth(ctx, text) + 8;
    const left = x - width - 6 >= GUTTER ? x - width - 6 : Math.min(x + 6, this.right - width);
    const top = level_y < y + h / 2 ? y + h - 16 : y + 2; // where the line is not
    ctx.fillStyle = this.c("bg");
    ctx.fillRect(left, top, width, 14);
    ctx.fillStyle = this.c("ink");
    ctx.fillText(text, left + 4, top + 7.5);
  }

  client(name, { y, h }) {
    const { ctx, view, model } = this;
    const { op } = model.trace.tables;
    const pixels = Math.ceil(view.width) + 1;
    const worst = new Uint8Array(pixels);
    const bars = [];
    ctx.fillStyle = this.c("row");
    ctx.fillRect(GUTTER, y, view.width, h);
    model.ops.get(name).visit(view.b, view.e, (row) => {
      const x0 = view.x(orElse(op.begin[row], op.t[row])) - GUTTER;
      const x1 = view.x(orElse(op.end[row], op.t[row])) - GUTTER;
      const rank = model.outcomes[row];
      if (x1 - x0 >= 3) {
        bars.push([x0, x1, rank, row]);
        return;
      }
      const px = Math.max(0, Math.min(pixels - 1, Math.floor(x0)));
      worst[px] = Math.max(worst[px], rank);
    });
    for (const [x0, x1, rank, row] of bars) this.bar(x0, x1, rank, row, y, h);
    for (let px = 0; px < pixels; px++) {
      if (!worst[px]) continue;
      let end = px + 1;
      while (end < pixels && worst[end] === worst[px]) end++;
      ctx.fillStyle = this.c(OUTCOMES[worst[px]]);
      // Height says it too: what went well is lower than what did not.
      const low = worst[px] === 1 ? 3 : 0;
      ctx.fillRect(GUTTER + px, y + low, Math.max(1.5, end - px), h - 2 * low);
      px = end - 1;
    }
  }

  bar(x0, x1, rank, row, y, h) {
    const { ctx, theme } = this;
    const from = GUTTER + Math.max(0, x0);
    const w = Math.max(1, Math.min(this.right, GUTTER + x1) - from - 1);
    const colour = this.c(OUTCOMES[rank]);
    const low = rank === 1 ? 2 : 0;
    ctx.fillStyle = colour;
    ctx.fillRect(from, y + low, w, h - 2 * low);
    if (w < 12) return;
    font(ctx, 11);
    ctx.fillStyle = theme.ink(colour);
    const { reader } = this.model;
    const value = reader.text("op", "value", row) || reader.text("op", "key", row) || "";
    const sign = ["", "", "? ", "✕ "][rank];
    writeFirst(ctx, [`${sign}${reader.text("op", "kind", row)} ${value}`, `${sign}${value}`,
      sign.trim()], from + 4, y + h / 2 + 0.5, w - 6);
  }
}
