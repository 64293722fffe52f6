"use strict";
// Where every lane is: {kind, y, h, label, …}, from top to bottom.

const GUTTER = 118; // pixels at the left, for the names
const RIGHT = 12;
const FAULT_ROWS_MAX = 8;
const FAULT_H = 18;

class Layout {
  constructor(data) {
    this.lanes = [];
    this.height = 0;
    this.add("axis", 38, "");
    this.faults = stacked(data);
    const rows = Math.max(1, this.faults.rows);
    this.add("faults", rows * FAULT_H + 4, "faults", { gap: 6 });
    this.add("writes", 132, "writes, reads", { gap: 12 });
    this.add("latency", 104, "latency", { gap: 14 });
    if (data.nodes.length) {
      this.add("writable", data.nodes.length * 7 + 4, "out of recovery", { gap: 8 });
    }
    data.nodes.forEach((node, index) => this.add("node", 42, node.name, { node, index, gap: 6 }));
    this.height += 6;
    const h = data.clients.length > 16 ? 12 : 18;
    data.clients.forEach((client, index) => this.add("client", h, client.name, { client, index, gap: 2 }));
    this.height += 6;
  }

  add(kind, h, label, { gap = 0, ...more } = {}) {
    this.lanes.push({ kind, y: this.height + gap, h, label, ...more });
    this.height += gap + h;
  }

  at(y) {
    return this.lanes.find((lane) => y >= lane.y - 1 && y < lane.y + lane.h + 1) || null;
  }

  of(kind) { return this.lanes.filter((lane) => lane.kind === kind); }
}

// Put each fault into the first row that is free, so that overlapping ones are one below another.
// A row that would be too many is shared.
function stacked(data) {
  const moment = (data.end - data.begin) * 0.004;
  const free = [];
  const rowOf = data.faults.map((fault) => {
    const end = fault.end === null ? fault.begin + moment : fault.end;
    let row = free.findIndex((until) => until <= fault.begin);
    if (row < 0) row = Math.min(free.length, FAULT_ROWS_MAX - 1);
    free[row] = Math.max(free[row] || 0, end);
    return row;
  });
  return { rowOf, rows: free.length };
}
