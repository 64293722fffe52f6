"use strict";
// Draw what a node may do and for how long: its lease, its hold for a leader, and what the commits
// of its server wait for. `painter` is the LanePainter.

// A lease is full, a hold an outline, both in the colour of the node whose right it is. What was
// had for certain is solid; from the last renewal to the end it is hatched or dashed.
function drawRights(painter, lane, y) {
  const { ctx, theme } = painter;
  const h = painter.layout.row.lease;
  painter.visible(lane.holds, (s, x, w) => drawHold(painter, s, x, y, w, h));
  painter.visible(lane.leases, (s, x, w) => drawLease(painter, lane, s, x, y, w, h));
  painter.visible(lane.guards, (s, x, w) => {
    ctx.fillStyle = theme.hatch(ctx, painter.c("bad"), 5, 1.5);
    ctx.fillRect(x, y, w, h);
  });
}

function drawLease(painter, lane, s, x, y, w, h) {
  const { ctx, view, theme } = painter;
  const colour = painter.c(painter.model.nodeColour(lane.name));
  const sure = Math.max(x, Math.min(x + w, view.x(s.sure)));
  ctx.fillStyle = colour;
  ctx.fillRect(x, y, Math.max(1, sure - x), h);
  ctx.fillStyle = theme.hatch(ctx, colour, 5, 2);
  ctx.fillRect(sure, y, x + w - sure, h);
  ctx.strokeStyle = colour;
  ctx.strokeRect(sure + 0.5, y + 0.5, Math.max(0, x + w - sure - 1), h - 1);
  ctx.fillStyle = theme.ink(colour);
  font(ctx, 10);
  writeFirst(ctx, ["lease"], x + 6, y + h / 2 + 0.5, sure - x - 10);
  drawEnd(painter, s, s.released ? colour : painter.c("bad"), y, h);
}

function drawHold(painter, s, x, y, w, h) {
  const { ctx, view } = painter;
  const colour = painter.c(painter.model.nodeColour(s.whom));
  const sure = Math.max(x, Math.min(x + w, view.x(s.sure)));
  const edges = (from, to) => {
    ctx.beginPath();
    for (const line of [y + 1, y + h - 1]) {
      ctx.moveTo(from, line);
      ctx.lineTo(to, line);
    }
    ctx.stroke();
  };
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5;
  edges(x, sure);
  ctx.setLineDash([4, 3]);
  edges(sure, x + w);
  ctx.setLineDash([]);
  ctx.lineWidth = 1;
  ctx.fillStyle = colour;
  if (s.b >= view.b) ctx.fillRect(x, y, 2, h);
  drawEnd(painter, s, colour, y, h);
  ctx.fillStyle = painter.c("ink");
  font(ctx, 10);
  const whom = s.whom || "the last leader";
  writeFirst(ctx, [`holds for ${whom}`, `for ${whom}`, s.whom || ""], x + 6, y + h / 2 + 0.5, w - 10);
}

// Where it ended; what lasts beyond the run has not.
function drawEnd({ ctx, view, model }, s, colour, y, h) {
  if (s.e > view.e || s.e >= model.end) return;
  ctx.fillStyle = colour;
  ctx.fillRect(view.x(s.e) - 1.5, y - 1, 3, h + 2);
}

// Below a server that is a primary or is to be one: a strip that says what commits wait for.
function drawWaits(painter, lane, y) {
  const { ctx, theme } = painter;
  const h = painter.layout.row.wait;
  font(ctx, 10);
  painter.visible(lane.waits, (s, x, w) => {
    const colour = painter.c(s.nobody ? "warn" : "row");
    ctx.fillStyle = colour;
    ctx.fillRect(x, y, Math.max(1, w - 1), h);
    ctx.fillStyle = s.nobody ? theme.ink(colour) : painter.c("dim");
    const texts = s.nobody ? [`▲ commits wait for ${s.text}`, s.text, "nobody", "▲"]
      : [`commits wait for ${s.text}`, s.text];
    writeFirst(ctx, texts, x + 4, y + h / 2 + 0.5, w - 6);
  });
}

// What commits of this lane's server wait for at this time, or undefined. The end belongs to what
// ends there.
function waitsAt({ waits }, t) {
  return waits.find(({ b, e }) => b <= t && t < e) || waits.find(({ b, e }) => b <= t && t === e);
}
