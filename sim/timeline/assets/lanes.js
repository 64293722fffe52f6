"use strict";
// Draw the lanes of the nodes: who is writable, agents, servers, steps, log. Leases, holds and what
// commits wait for are in rights.js.
// Only what is in the visible range is looked at, and what is narrower than a pixel is merged.

class LanePainter {
  constructor(ctx, model, view, theme, layout) {
    Object.assign(this, { ctx, model, view, theme, layout });
    this.right = GUTTER + view.width;
  }

  c(key) { return this.theme.colour(key); }

  // Visit the segments of a list that are visible, as pixels.
  visible(segments, draw) {
    const { view, right } = this;
    for (let at = segmentAt(segments, view.b); at < segments.length; at++) {
      const segment = segments[at];
      if (segment.b > view.e) break;
      const x0 = Math.max(GUTTER, view.x(segment.b));
      // What holds at the end is drawn a little further: a violation ends the run at the moment at
      // which it comes about, and would not be seen.
      const tail = segment.e === this.model.end ? TAIL : 0;
      const x1 = Math.min(right, view.x(segment.e) + tail);
      if (x1 >= GUTTER) draw(segment, x0, Math.max(1, x1 - x0));
    }
  }

  names() {
    const { ctx, layout, model } = this;
    ctx.fillStyle = this.c("panel");
    ctx.fillRect(0, 0, GUTTER - 1, layout.height);
    const small = (text, y) => {
      font(ctx, 11);
      ctx.fillStyle = this.c("dim");
      ctx.textAlign = "right";
      ctx.fillText(text, GUTTER - 8, y);
      ctx.textAlign = "left";
    };
    const bold = (text, y, room) => {
      font(ctx, 13, "600");
      ctx.fillStyle = this.c("ink");
      ctx.fillText(fitted(ctx, text, room), 8, y);
    };
    small("writable", layout.writers.y + layout.writers.h / 2);
    for (const place of layout.nodes.values()) {
      const room = model.witnesses.has(place.lane.name) ? 46 : 52;
      ctx.fillStyle = this.c(model.nodeColour(place.lane.name));
      ctx.fillRect(0, place.role, 4, place.y + place.h - place.role);
      bold(place.lane.name, place.role + this.layout.row.role / 2, room);
      small("agent", place.role + this.layout.row.role / 2);
      small("lease, hold", place.lease + this.layout.row.lease / 2);
      if (place.lane.database) {
        small("postgres", place.server + this.layout.row.server / 2);
        if (place.wait !== undefined) small("commits wait for", place.wait + this.layout.row.wait / 2);
        small("steps", place.step + this.layout.row.step / 2);
      }
      small(model.witnesses.has(place.lane.name) ? "witness · log" : "log", place.log + this.layout.row.log / 2);
    }
    if (layout.acks) {
      const { y, h } = layout.acks;
      const range = ackRange(model, this.view);
      small("acknowledged", y + h / 2);
      // The ends of the scale, which is that of what is seen.
      if (range) {
        small(lsnText(range.high), y + 6);
        small(lsnText(range.low), y + h - 6);
      }
    }
    if (layout.cause !== null) small("causes", layout.cause + this.layout.row.cause / 2);
    for (const [name, place] of layout.clients) {
      bold(name, place.y + place.h / 2, 52);
      small("client", place.y + place.h / 2);
    }
  }

  all() {
    const { layout } = this;
    this.writers();
    for (const place of layout.nodes.values()) this.node(place);
  }

  writers() {
    const { ctx, theme } = this;
    const { y, h } = this.layout.writers;
    ctx.strokeStyle = this.c("line");
    ctx.strokeRect(GUTTER + 0.5, y + 0.5, this.view.width - 1, h - 1);
    font(ctx, 11.5, "600");
    let free = GUTTER; // where the newest of several writers end
    let said = ""; // who they are
    const two = []; // whose label stands where they begin, once everything else is drawn
    this.visible(this.model.primaries, ({ who }, x, w) => {
      const share = h / who.length;
      who.forEach(({ branch, closed }, at) => {
        const colour = this.c(this.model.branchColour(branch));
        ctx.fillStyle = closed ? theme.tint(colour, 0.6) : colour;
        ctx.fillRect(x, y + at * share, w, share);
      });
      if (who.length > 1) {
        const names = who.map((each) => each.name).join(", ");
        ctx.strokeStyle = this.c("bad");
        ctx.lineWidth = 2;
        ctx.strokeRect(x + 1, y + 1, Math.max(1, w - 2), h - 2);
        ctx.lineWidth = 1;
        const again = said === names && x - free < 2;
        said = names;
        free = Math.max(free, x + w);
        if (!again) two.push({ who, names, x, w });
        return;
      }
      ctx.fillStyle = theme.ink(this.c(this.model.branchColour(who[0].branch)));
      const text = `${who[0].name} · ${branchText(who[0].branch)}`;
      const closed = who[0].closed ? [`${text}, closed to clients`] : [];
      writeFirst(ctx, [...closed, text, who[0].name], x + 6, y + h / 2 + 0.5, w - 10);
    });
    this.splitBrains(two, y, h);
  }

  // "2 writable", never to the left of where it begins: a label is read as an extent.
  splitBrains(two, y, h) {
    const { ctx } = this;
    two.forEach(({ who, names, x, w }, at) => {
      const next = at + 1 < two.length ? two[at + 1].x - 2 : this.right;
      const room = Math.max(w, next - x) - 10;
      const texts = [`${who.length} writable: ${names}`, `${who.length} writable`, String(who.length)];
      const text = texts.find((each) => textWidth(ctx, each) <= room);
      if (!text) return;
      ctx.fillStyle = this.c("bad");
      ctx.fillRect(x, y, textWidth(ctx, text) + 10, h);
      ctx.fillStyle = this.theme.ink(this.c("bad"));
      ctx.fillText(text, x + 5, y + h / 2 + 0.5);
    });
  }

  node(place) {
    const { lane } = place;
    this.roles(lane, place.role);
    drawRights(this, lane, place.lease);
    if (lane.database) {
      if (place.wait !== undefined) drawWaits(this, lane, place.wait);
      this.servers(lane, place.server);
      this.steps(lane, place.step);
    }
    this.logs(lane, place.log);
  }

  roles(lane, y) {
    const { ctx, theme } = this;
    const h = this.layout.row.role;
    font(ctx, this.layout.size);
    let drawn = -1;
    let painted = "";
    this.visible(lane.roles, (s, x, w) => {
      const colour = this.c(`role-${ROLE_COLOUR[s.role] || "other"}`);
      // A row of segments within one pixel is one pixel; the ones that matter win.
      if (x + w - drawn < 0.5 && (ROLE_COLOUR[s.role] || "") === painted) return;
      drawn = x + w;
      painted = ROLE_COLOUR[s.role] || "";
      ctx.fillStyle = colour;
      ctx.fillRect(x, y, w, h);
      const gone = painted === "gone";
      if (gone || s.cover) {
        ctx.fillStyle = theme.hatch(ctx, this.c(gone ? "hatch" : "bg"), gone ? 7 : 8, gone ? 1 : 3);
        ctx.fillRect(x, y, w, h);
      }
      if (w > 4) {
        ctx.fillStyle = this.c("bg");
        ctx.fillRect(x, y, 1, h);
      }
      const role = s.cover ? `${s.cover} (${s.role})` : s.role;
      const promised = s.promised !== null && s.promised > s.term ? `, promised ${s.promised}` : "";
      const texts = s.term === null ? [role, role.replace(/^\S+ /, "")]
        : [`${role} · term ${s.term}${promised}`, `${role} · term ${s.term}`, `${role} ${s.term}`,
          `t${s.term}`];
      if (w < 14) return;
      if (gone || s.cover) this.plate(texts, x + 4, y, h, w - 8);
      else {
        ctx.fillStyle = theme.ink(colour);
        writeFirst(ctx, texts, x + 6, y + h / 2 + 0.5, w - 9);
      }
    });
  }

  // Text on a hatch: on a plate of its own, or it cannot be read.
  plate(texts, x, y, h, room) {
    const { ctx } = this;
    const text = texts.find((each) => textWidth(ctx, each) + 8 <= room);
    if (!text) return;
    ctx.fillStyle = this.c("bg");
    ctx.fillRect(x, y + 2, textWidth(ctx, text) + 8, h - 4);
    ctx.fillStyle = this.c("ink");
    ctx.fillText(text, x + 4, y + h / 2 + 0.5);
  }

  servers(lane, y) {
    const { ctx, theme } = this;
    const h = this.layout.row.server;
    this.visible(lane.servers, (s, x, w) => {
      const colour = s.branch === null ? this.c("none") : this.c(this.model.branchColour(s.branch));
      const light = theme.tint(colour, 0.24);
      const up = s.process === "running";
      if (up && s.serves === "primary") {
        ctx.fillStyle = s.closed ? theme.tint(colour, 0.6) : colour;
        ctx.fillRect(x, y, w, h);
      } else if (up || s.process === "starting" || s.process === "stopping") {
        ctx.fillStyle = light;
        ctx.fillRect(x, y, w, h);
        if (!up) {
          ctx.fillStyle = theme.hatch(ctx, colour, 7, 2);
          ctx.fillRect(x, y, w, h);
        }
        ctx.fillStyle = colour;
        ctx.fillRect(x, y, w, 2);
      } else {
        ctx.strokeStyle = this.c("line");
        ctx.strokeRect(x + 0.5, y + 0.5, Math.max(1, w - 1), h - 1);
      }
      if (s.frozen) {
        ctx.fillStyle = theme.hatch(ctx, this.c("bg"), 9, 3);
        ctx.fillRect(x, y, w, h);
      }
      if (w > 4) {
        ctx.fillStyle = this.c("bg");
        ctx.fillRect(x, y, 1, h);
      }
      if (w >= 14) this.serverText(lane, s, x, y, w, colour);
    });
  }

  serverText(lane, s, x, y, w, colour) {
    const { ctx, theme, view } = this;
    const h = this.layout.row.server;
    const up = s.process === "running";
    const plain = up && s.serves === "primary" && !s.closed ? theme.ink(colour) : this.c("ink");
    const what = up && s.serves ? s.serves : s.process;
    const words = [s.frozen ? `frozen ${what}` : what];
    if (s.data !== "present") words.push(`data ${s.data}`);
    const base = words.join(", ");
    const where = s.tli === null || !up ? "" : ` · timeline ${s.tli}`;
    const branch = s.branch === null || !up ? "" : ` · ${s.branch}`;
    // Closed to clients is not read-only.
    const closed = s.closed ? [`${base}, writable, closed to clients${where}${branch}`,
      `${base}, writable, closed to clients`, "writable, closed to clients", "writable, closed"] : [];
    const texts = [...closed, base + where + branch, base + branch, base, base.slice(0, 7)];
    const primary = what === "primary";
    font(ctx, this.layout.size, primary ? "600" : "");
    if (s.frozen || s.process === "starting" || s.process === "stopping") {
      this.plate(texts, x + 4, y, h, w - 8);
      return;
    }
    ctx.fillStyle = up ? plain : this.c("dim");
    const used = writeFirst(ctx, texts, x + 6, y + h / 2 + 0.5, w - 9);
    if (!up || !used) return;
    // The position at the visible end, where the eye that pans looks for what is new.
    const { pg } = this.model.trace.tables;
    const at = rowAt(this.model.reader.rows("pg", lane.name), pg.t, Math.min(s.e - 1, view.e));
    if (at === NONE || Number.isNaN(pg.lsn[at])) return;
    font(ctx, 11);
    const text = lsnText(pg.lsn[at]);
    const width = textWidth(ctx, text);
    const end = Math.min(x + w, view.x(this.model.end)); // not under the line of the violation
    if (x + used + width + 26 > end) return;
    ctx.fillText(text, end - width - 5, y + h / 2 + 0.5);
  }

  steps(lane, y) {
    const { ctx, view, right, theme } = this;
    const { step } = this.model.trace.tables;
    const h = this.layout.row.step;
    font(ctx, 11);
    const list = [];
    lane.steps.visit(view.b, view.e, (row) => list.push(row));
    list.sort((a, b) => orElse(step.begin[a], step.t[a]) - orElse(step.begin[b], step.t[b]));
    let free = -1; // where a label that stands beside its bar would not touch the next one
    list.forEach((row, at) => {
      const x0 = Math.max(GUTTER, view.x(orElse(step.begin[row], step.t[row])));
      const x1 = Math.min(right, view.x(orElse(step.end[row], step.t[row])));
      const w = Math.max(2, x1 - x0);
      const failed = step.ok[row] === 0;
      ctx.fillStyle = failed ? this.c("bad") : this.c("step");
      ctx.fillRect(x0, y, w, h - 2);
      const text = this.model.reader.text("step", "step", row) || "";
      const inside = fitted(ctx, text, w - 6);
      if (inside === text) {
        ctx.fillStyle = theme.ink(failed ? this.c("bad") : this.c("step"));
        ctx.fillText(inside, x0 + 3, y + h / 2 - 0.5);
        free = x0 + w + 2;
        return;
      }
      const next = at + 1 < list.length
        ? view.x(orElse(step.begin[list[at + 1]], step.t[list[at + 1]])) : right;
      const width = textWidth(ctx, text);
      if (x0 + w < free || x0 + w + 3 + width > next - 3) return;
      ctx.fillStyle = failed ? this.c("bad") : this.c("dim");
      ctx.fillText(text, x0 + w + 3, y + h / 2 - 0.5);
      free = x0 + w + 6 + width;
    });
  }

  logs(lane, y) {
    const { ctx, view } = this;
    const { log, mark } = this.model.trace.tables;
    const worst = new Int8Array(Math.ceil(view.width) + 1).fill(NONE);
    const first = lowerOf(lane.logs, log.t, view.b);
    for (let at = first; at < lane.logs.length && log.t[lane.logs[at]] <= view.e; at++) {
      const row = lane.logs[at];
      const level = LEVELS[(this.model.reader.text("log", "level", row) || "INFO").toUpperCase()];
      const px = Math.floor(view.x(log.t[row]) - GUTTER);
      worst[px] = Math.max(worst[px], level === undefined ? 1 : level);
    }
    const mid = y + this.layout.row.log / 2;
    for (let px = 0; px < worst.length; px++) {
      if (worst[px] < 0) continue;
      const x = GUTTER + px + 0.5;
      if (worst[px] >= 2) {
        ctx.fillStyle = this.c(worst[px] >= 3 ? "bad" : "warn");
        ctx.beginPath();
        ctx.moveTo(x - 4, y + this.layout.row.log - 1);
        ctx.lineTo(x + 4, y + this.layout.row.log - 1);
        ctx.lineTo(x, y + 2);
        ctx.fill();
      } else {
        ctx.fillStyle = this.c(worst[px] ? "dim" : "line");
        ctx.fillRect(x - 1, mid - 1, 2, this.layout.row.log / 2);
      }
    }
    font(ctx, 11);
    let free = -1;
    const begin = lowerOf(lane.marks, mark.t, view.b);
    for (let at = begin; at < lane.marks.length && mark.t[lane.marks[at]] <= view.e; at++) {
      const row = lane.marks[at];
      const x = view.x(mark.t[row]);
      if (x < free - 6) continue; // flags on top of each other say nothing
      ctx.fillStyle = this.c("mark");
      ctx.fillRect(x - 0.5, y, 1.5, this.layout.row.log);
      ctx.beginPath();
      ctx.moveTo(x + 1, y);
      ctx.lineTo(x + 8, y + 3);
      ctx.lineTo(x + 1, y + 6);
      ctx.fill();
      free = x + 12;
      const text = spaced(this.model.reader.text("mark", "name", row));
      const next = at + 1 < lane.marks.length ? view.x(mark.t[lane.marks[at + 1]]) : this.right;
      // The log's triangles stand in the same row; a label goes only where there are none.
      const from = Math.max(0, Math.ceil(x - GUTTER) + 2);
      const to = Math.ceil(x - GUTTER + 14 + textWidth(ctx, text));
      let taken = to > view.width || x + 14 + textWidth(ctx, text) > next;
      for (let px = from; px < to && !taken; px++) taken = worst[px] >= 0;
      if (taken) continue;
      ctx.fillText(text, x + 11, mid);
      free = x + 16 + textWidth(ctx, text);
    }
  }
}

const ROLE_COLOUR = {
  leader: "leader", candidate: "candidate", "pre-candidate": "pre", follower: "follower",
  stopping: "stopping", "host down": "gone", "agent down": "gone", "agent stopped": "gone",
};

// Position in a list of rows, which are in the order of time, of the first not before t.
function lowerOf(rows, times, t) {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[rows[middle]] < t) low = middle + 1;
    else high = middle;
  }
  return low;
}
