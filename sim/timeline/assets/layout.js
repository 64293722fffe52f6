"use strict";
// Where every lane is, and every row of it. Rows grow where there is room; what is too high scrolls.

const GUTTER = 118; // px at the left, for names
// Pixels that a part needs at least; where there is room, all grow by the same factor.
const ROW = {
  cause: 28, log: 12, role: 19, lease: 14, server: 21, wait: 11, step: 14, space: 2, client: 17, acks: 40,
  writers: 18,
};
const FIXED = ["cause", "wait", "space"]; // px that do not grow
const TAIL = 14; // px, beyond the end of the run
const GROWTH_MAX = 1.5;
const GAP_MIN = 18; // px between node lanes: messages and partitions are drawn there
const GAP_MAX = 60;

// Where every lane is, in pixels from the top of the lanes' canvas.
function layOut(model, room) {
  const nodes = [...model.lanes.values()];
  // A row for the numbers of the causes, so that they hide nothing, where there are any.
  const { lanes: caused, clients: clientsCaused } = model.causePlaces();
  const parts = (lane) => [...(caused.has(lane.name) ? ["cause"] : []), "log", "role", "lease",
    ...(lane.database ? ["server"] : []), ...(lane.waits.length ? ["wait"] : []),
    ...(lane.database ? ["step"] : [])];
  const height = (row, lane) => parts(lane).reduce((sum, part) => sum + row[part] + row.space, -row.space);
  const needed = (row) => 14 + row.writers + nodes.reduce((sum, lane) => sum + height(row, lane), 0)
    + (model.acks.rows.length ? row.acks + 8 : 0) + (clientsCaused ? row.cause : 0)
    + model.clients.length * row.client;
  const gaps = nodes.length + 1;
  // The gaps come first: arrows need them more than bars need to be high.
  const factor = Math.max(1, Math.min(GROWTH_MAX, (room - gaps * 34) / needed(ROW)));
  const row = Object.fromEntries(Object.entries(ROW).map(([part, px]) => [part,
    FIXED.includes(part) ? px : Math.floor(px * factor)]));
  Object.assign(row, { log: Math.min(row.log, 15), lease: Math.min(row.lease, 16) });
  const gap = Math.max(GAP_MIN, Math.min(GAP_MAX, (room - needed(row)) / gaps));
  const layout = { row, gap, writers: { y: 6, h: row.writers }, nodes: new Map(), clients: new Map() };
  layout.size = factor > 1.2 ? 13 : 12; // of the letters in a bar
  let y = 6 + row.writers + gap;
  for (const lane of nodes) {
    const place = { lane, y, h: height(row, lane) };
    let top = y;
    for (const part of parts(lane)) {
      place[part] = top;
      top += row[part] + row.space;
    }
    layout.nodes.set(lane.name, place);
    y += place.h + gap;
  }
  layout.acks = model.acks.rows.length ? { y, h: row.acks } : null;
  if (layout.acks) y += row.acks + 8;
  layout.cause = clientsCaused ? y : null;
  if (clientsCaused) y += row.cause;
  for (const name of model.clients) {
    layout.clients.set(name, { y, h: row.client - 3 });
    y += row.client;
  }
  layout.height = Math.floor(y + 4);
  return layout;
}
