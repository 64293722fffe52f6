"use strict";
// Draw what each server and node was, what its agent said, and what went wrong for each client.

// Event → [shape, colour, importance]; an event of importance 2 has its name beside it if there is
// room. What is not listed is a small tick.
const SIGNS = {
  __proto__: null, // an event may have any name
  election_won: ["up", "unknown", 2], promoted: ["up", "ok", 2], primary_active: ["up", "ok", 2],
  lease_gained: ["up", "ok", 1], candidacy_started: ["flag", "unknown", 1],
  candidacy_lost: ["down", "unknown", 1], hold_expired: ["flag", "unknown", 2],
  release_heard: ["flag", "unknown", 2], fenced: ["down", "bad", 2], stepped_down: ["down", "bad", 2],
  lease_lost: ["down", "bad", 2], lease_released: ["down", "warn", 1],
  postgres_crashed: ["down", "bad", 2], step_failed: ["down", "bad", 1],
  commits_blocked: ["down", "warn", 1], rejoin: ["diamond", "mark", 2],
  rewind: ["diamond", "mark", 2], clone: ["diamond", "mark", 2],
  member_suspect: ["flag", "dim", 1], member_dead: ["flag", "dim", 1],
};
const REPAIR = /^(Rewind|Clone)\b/;
const OUTCOME_COLOURS = ["p99", "failed", "unknown"]; // ok ones are here because they were slow

function signOf([, name, text]) {
  if (name === "step_finished" && REPAIR.test(text)) return SIGNS.rewind;
  return SIGNS[name] || ["tick", "dim", 0];
}

function nodeColour(index) {
  return `node${index % 6}`;
}

class LanePainter {
  constructor(ctx, data, view, theme, layout) {
    Object.assign(this, { ctx, data, view, theme, layout });
    this.right = GUTTER + view.width;
  }

  c(key) { return this.theme.colour(key); }

  all() {
    for (const lane of this.layout.lanes) {
      if (lane.kind === "writable") this.writable(lane);
      else if (lane.kind === "node") this.node(lane);
      else if (lane.kind === "client") this.client(lane);
    }
  }

  bar(t0, t1, y, h, fill) {
    const x0 = Math.max(GUTTER, this.view.x(t0));
    const x1 = Math.min(this.right, this.view.x(t1));
    if (x1 < GUTTER || x0 > this.right) return null;
    this.ctx.fillStyle = fill;
    this.ctx.fillRect(x0, y, Math.max(1, x1 - x0), h);
    return [x0, x1];
  }

  // One line a server, close together: two at once are seen, and framed in red.
  writable({ y, h }) {
    const { ctx, data } = this;
    ctx.fillStyle = this.c("row");
    ctx.fillRect(GUTTER, y, this.view.width, h);
    data.nodes.forEach((node, index) => {
      for (const [begin, end] of node.writable) {
        this.bar(begin, end, y + 2 + index * 7, 6, this.c(nodeColour(index)));
      }
    });
    for (const [begin, end] of data.double) {
      const x0 = this.view.x(begin);
      const x1 = Math.max(x0 + 4, this.view.x(end));
      ctx.strokeStyle = this.c("bad");
      ctx.lineWidth = 2;
      ctx.strokeRect(x0 - 1, y - 1, x1 - x0 + 2, h + 2);
      ctx.lineWidth = 1;
    }
  }

  node({ y, node, index }) {
    const { data, view } = this;
    const h = 20;
    node.spans.forEach((span, at) => {
      const next = node.spans[at + 1];
      const end = next ? next[0] : data.end;
      if (end < view.b || span[0] > view.e) return;
      this.role(span, end, y, h, index);
      const before = node.spans[at - 1];
      if (before && before[3] !== span[3] && span[3] !== null) this.term(span, y);
    });
    this.events(node.events, y + 22);
  }

  role([begin, role, state, term, timeline], end, y, h, index) {
    const { ctx, theme } = this;
    const colours = { __proto__: null, primary: this.c(nodeColour(index)), standby: this.c("standby") };
    const fill = colours[role] || this.c("bg");
    const place = this.bar(begin, end, y, h, fill);
    if (!place) return;
    const [x0, x1] = place;
    if (!colours[role]) {
      ctx.fillStyle = theme.hatch(ctx, this.c(role === "down" ? "failed" : "hatch"), role === "down" ? 6 : 9, 1);
      ctx.fillRect(x0, y, Math.max(1, x1 - x0), h);
      ctx.strokeStyle = this.c("line");
      ctx.strokeRect(x0 + 0.5, y + 0.5, Math.max(0, x1 - x0 - 1), h - 1);
    }
    font(ctx, 11);
    const numbers = term === null ? "" : ` · term ${term}${timeline === null ? "" : ` · timeline ${timeline}`}`;
    const words = colours[role] ? role : `${role}${state ? `: ${state}` : ""}`;
    const texts = [`${words}${numbers}`, term === null ? role : `${role} · term ${term}`, role];
    const text = texts.find((each) => textWidth(ctx, each) <= x1 - x0 - 12);
    if (!text) return;
    if (!colours[role]) {
      ctx.fillStyle = this.c("bg");
      ctx.fillRect(x0 + 5, y + 3, textWidth(ctx, text) + 6, h - 6);
    }
    ctx.fillStyle = colours[role] ? theme.ink(fill) : this.c("ink");
    ctx.fillText(text, x0 + 8, y + h / 2 + 0.5);
  }

  // A notch where the term changed.
  term([t], y) {
    const { ctx } = this;
    const x = this.view.x(t);
    ctx.fillStyle = this.c("ink");
    ctx.beginPath();
    ctx.moveTo(x - 4, y - 1);
    ctx.lineTo(x + 4, y - 1);
    ctx.lineTo(x, y + 5);
    ctx.fill();
  }

  events(events, y) {
    const { ctx, view } = this;
    const first = above(events.length, (at) => events[at][0], view.b - view.span * 0.01);
    const last = above(events.length, (at) => events[at][0], view.e + view.span * 0.01);
    const shown = events.slice(first, last).map((event) => [view.x(event[0]), event, signOf(event)]);
    const byRank = [0, 1, 2].flatMap((rank) => shown.filter(([, , sign]) => sign[2] === rank));
    for (const [x, , [shape, colour]] of byRank) this.sign(shape, x, y + 9, this.c(colour));
    font(ctx, 11);
    const important = shown.filter(([, , sign]) => sign[2] > 0);
    important.forEach(([x, event, sign], at) => {
      if (sign[2] < 2) return;
      const next = important[at + 1] ? important[at + 1][0] - 7 : this.right;
      const text = event[1] === "step_finished" ? event[2].split(" ")[0].toLowerCase() : spaced(event[1]);
      if (textWidth(ctx, text) > next - x - 8) return;
      ctx.fillStyle = this.c("ink");
      ctx.fillText(text, x + 7, y + 9.5);
    });
  }

  sign(shape, x, y, colour) {
    const { ctx } = this;
    ctx.fillStyle = colour;
    ctx.beginPath();
    if (shape === "up") path(ctx, [[x - 5, y + 5], [x + 5, y + 5], [x, y - 5]]);
    else if (shape === "down") path(ctx, [[x - 5, y - 5], [x + 5, y - 5], [x, y + 5]]);
    else if (shape === "diamond") path(ctx, [[x - 5, y], [x, y - 5], [x + 5, y], [x, y + 5]]);
    else if (shape === "flag") path(ctx, [[x - 1, y - 6], [x + 5, y - 3], [x + 0.5, y], [x + 0.5, y + 6], [x - 1, y + 6]]);
    else ctx.rect(x - 0.5, y - 3, 1, 6);
    ctx.fill();
  }

  client({ y, h, index }) {
    const { ctx, data, view } = this;
    ctx.fillStyle = this.c("row");
    ctx.fillRect(GUTTER, y, view.width, h - 2);
    const middle = y + h / 2 - 1;
    // Slow ones first and unknown ones last: what matters more lies on top.
    for (const wanted of [0, 1, 2]) {
      const colour = this.c(OUTCOME_COLOURS[wanted]);
      for (const [client, begin, end, outcome] of data.ops) {
        if (client !== index || outcome !== wanted || end < view.b || begin > view.e) continue;
        this.operation(view.x(begin), view.x(end), middle, h, outcome, colour);
      }
    }
  }

  // From begin to end if that is more than a dot.
  operation(x0, x1, y, h, outcome, colour) {
    const { ctx } = this;
    const r = Math.min(4, h / 3.2);
    ctx.fillStyle = ctx.strokeStyle = colour;
    if (x1 - x0 > 2 * r + 2) ctx.fillRect(x0, y - 1, x1 - x0, 2);
    ctx.beginPath();
    ctx.arc(x1, y, outcome === 0 ? r - 0.8 : r, 0, 2 * Math.PI);
    if (outcome === 0) ctx.stroke();
    else ctx.fill();
  }
}

function path(ctx, points) {
  points.forEach(([x, y], at) => (at ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
  ctx.closePath();
}
