"use strict";
// What is under the pointer, in words; and mouse and keys turned into changes of the view.

class Finder {
  constructor(model, view, layout, painters) {
    Object.assign(this, { model, view, layout, painters });
  }

  // {ref, title, lines} of what is at a place of the lanes' canvas, or null.
  at(x, y) {
    if (x < GUTTER || x > GUTTER + this.view.width) return null;
    return this.badge(x, y) || this.inLanes(x, y) || this.arrow(x, y) || this.fault(x, y);
  }

  // The same in the strip above the lanes.
  inStrip(x, y) {
    const { badges, drawnFaults } = this.painters.strip;
    const badge = this.badge(x, y, badges);
    if (badge) return badge;
    const hit = drawnFaults.find((each) => x >= each.x0 && x <= each.x1 && y >= each.y0 && y <= each.y1);
    return hit ? this.ofFaults([hit.fault]) : null;
  }

  said(ref, ...lines) {
    const { node, text } = this.model.words.describe(ref);
    return { ref, title: [node, text].filter(Boolean).join(" · "), lines: lines.filter(Boolean) };
  }

  // The number of a cause; or the dot at its event, which lies over everything else.
  badge(x, y, badges = this.painters.markers.badges) {
    const near = (spot, room) => Math.hypot(spot.x - x, spot.y - y) < room;
    const hit = badges.find((each) => near(each, BADGE + 1)) || badges.find((each) => near(each.at, 3.5));
    if (!hit) return null;
    const { cause } = hit;
    const { node, text } = this.model.words.describe(cause);
    return {
      ref: { kind: cause.kind, row: cause.row }, number: cause.number,
      title: `Cause ${cause.number}: ${cause.note || [node, text].filter(Boolean).join(" · ")}`,
      lines: [`at ${seconds(cause.t, 6)}`, cause.note ? [node, text].filter(Boolean).join(" · ") : ""]
        .filter(Boolean),
    };
  }

  arrow(x, y) {
    let best = null;
    let near = 5;
    for (const line of this.painters.arrows.drawn) {
      const distance = toSegment(x, y, line);
      if (distance < near) [near, best] = [distance, line];
    }
    if (!best) return null;
    const { msg } = this.model.trace.tables;
    return this.said({ kind: "msg", row: best.row }, `sent at ${seconds(msg.t[best.row], 6)}`);
  }

  fault(x, y) {
    const t = this.view.t(x);
    const slack = (3 / this.view.width) * this.view.span;
    const on = this.model.faults.filter((f) => f.b - slack <= t && t <= f.e + slack
      && (f.network || f.nodes.length === 0 || f.nodes.some((name) => {
        const place = this.layout.nodes.get(name);
        return place && y >= place.y - this.layout.gap / 2 && y <= place.y + place.h + this.layout.gap / 2;
      })));
    return on.length ? this.ofFaults(on) : null;
  }

  ofFaults(on) {
    const lines = on.map((fault) => {
      const until = fault.instant ? "" : ` to ${fault.ended ? seconds(fault.e) : "the end of the run"}`;
      return `${on.length > 1 ? `${fault.text}: ` : ""}${seconds(fault.b)}${until}`;
    });
    if (on[0].nodes.length) lines.push(`on ${on[0].nodes.join(", ")}`);
    return { ref: { kind: "fault", row: on[0].row }, title: on[0].text, lines };
  }

  inLanes(x, y) {
    const t = this.view.t(x);
    const { writers, acks } = this.layout;
    if (y >= writers.y && y < writers.y + writers.h) return this.writers(t);
    for (const place of this.layout.nodes.values()) {
      if (y >= place.y - 1 && y < place.y + place.h) return this.inNode(place, t, x, y);
    }
    if (acks && y >= acks.y && y < acks.y + acks.h) {
      const at = upperBound(this.model.acks.t, t) - 1;
      return at < 0 ? null : this.said({ kind: "ack", row: this.model.acks.rows[at] },
        `at ${seconds(this.model.acks.t[at], 6)}`, this.ackScale());
    }
    for (const [name, place] of this.layout.clients) {
      if (y >= place.y && y < place.y + place.h) return this.inClient(name, t);
    }
    return null;
  }

  ackScale() {
    const range = ackRange(this.model, this.view);
    return range ? `scale of what is seen: ${lsnText(range.low)} to ${lsnText(range.high)}` : "";
  }

  // From when to when; what holds at the end has not ended.
  range(s) {
    const until = s.e >= this.model.end ? "the end of the run" : seconds(s.e);
    if (s.b >= this.model.end) return `${seconds(s.b)}, the end of the run`;
    return `${seconds(s.b)} to ${until} (${duration(Math.min(s.e, this.model.end) - s.b)})`;
  }

  writers(t) {
    const { primaries, end } = this.model;
    const at = segmentAt(primaries, t);
    const found = primaries[at] || (t >= end && primaries.length && primaries[at - 1].e >= end
      ? primaries[at - 1] : null);
    if (!found || found.b > t) return { ref: null, title: "no server is writable", lines: [] };
    return {
      ref: null, lines: [this.range(found)],
      title: `writable: ${found.who.map((who) => `${who.name} on ${branchText(who.branch)}${
        who.closed ? ", closed to clients" : ""}`).join("; ")}`,
    };
  }

  inNode(place, t, x, y) {
    const { lane } = place;
    const inside = (part) => place[part] !== undefined && y >= place[part] - 1
      && y < place[part] + this.layout.row[part] + 1;
    const held = (segments) => this.held(segments, t);
    const span = this.view.span / this.view.width;
    if (inside("log")) return this.nearLog(lane, t, span * 5);
    if (inside("role")) {
      const s = held(lane.roles);
      if (!s) return null;
      const words = [`${s.cover} ${s.role}`.trim()];
      if (s.term !== null) words.push(`term ${s.term}`);
      if (s.promised > s.term) words.push(`promised to term ${s.promised}`);
      return { ref: this.stateRef("node", lane, t), title: `${lane.name} · ${words.join(", ")}`,
        lines: [this.range(s)] };
    }
    if (inside("lease")) return this.rights(lane, t);
    if (inside("wait")) {
      const s = held(lane.waits);
      return s && { ref: this.stateRef("pg", lane, t), title: `${lane.name} · commits wait for ${s.text}`,
        lines: [this.range(s), s.nobody ? "a commit is acknowledged when no other server has it" : ""].filter(Boolean) };
    }
    if (inside("server")) {
      const s = held(lane.servers);
      if (!s) return null;
      const { pg } = this.model.trace.tables;
      const ref = this.stateRef("pg", lane, t);
      const what = [s.frozen ? "frozen" : "", s.process, s.serves, s.closed ? "writable, closed to clients" : ""];
      const waits = held(lane.waits);
      return {
        ref, title: `${lane.name} · PostgreSQL ${what.filter(Boolean).join(", ")}`,
        lines: [this.range(s), `timeline ${s.tli}, ${branchText(s.branch)}, LSN ${lsnText(pg.lsn[ref.row])}`,
          waits ? `commits wait for ${waits.text}` : ""].filter(Boolean),
      };
    }
    if (inside("step")) {
      let hit = NONE;
      lane.steps.visit(t - span * 3, t + span * 3, (row) => { hit = row; });
      return hit === NONE ? null : this.said({ kind: "step", row: hit });
    }
    return null;
  }

  // The segment of a list that holds at this time; a little after the end, what held there.
  held(segments, t) {
    const { end } = this.model;
    const time = t > end && t - end < (TAIL / this.view.width) * this.view.span ? end : t;
    const at = segmentAt(segments, time);
    if (segments[at]) return segments[at].b <= time ? segments[at] : null;
    return at > 0 && segments[at - 1].e === end && time === end ? segments[at - 1] : null;
  }

  // What tells of a lane's state at this time: not what began the bar that is seen there.
  stateRef(kind, lane, t) {
    return { kind, row: this.model.stateAt(kind, lane.name, Math.min(t, this.model.end)) };
  }

  rights(lane, t) {
    const guard = this.held(lane.guards, t);
    const lease = this.held(lane.leases, t);
    const hold = this.held(lane.holds, t);
    const titles = [];
    const lines = [];
    if (lease) {
      titles.push("lease");
      lines.push(`lease from ${seconds(lease.b)}, ${renewedText(lease)}`, endText(this.model, lease, "renewal"));
    }
    if (hold) {
      titles.push(holdText(hold.whom));
      lines.push(`hold from ${seconds(hold.b)}, ${renewedText(hold)}`, endText(this.model, hold, "heartbeat"));
    }
    if (guard) titles.push(`guard ${guard.guard}`);
    if (!titles.length) return null;
    const kind = lease ? "lease" : hold ? "hold" : "node";
    return { ref: this.stateRef(kind, lane, t), title: `${lane.name} · ${titles.join("; ")}`, lines };
  }

  nearLog(lane, t, slack) {
    const { log, mark } = this.model.trace.tables;
    const found = [];
    for (const [kind, rows, times] of [["log", lane.logs, log.t], ["mark", lane.marks, mark.t]]) {
      for (let at = lowerOf(rows, times, t - slack); at < rows.length && times[rows[at]] <= t + slack; at++) {
        found.push({ kind, row: rows[at], far: Math.abs(times[rows[at]] - t) });
        if (found.length > 200) break;
      }
    }
    if (!found.length) return null;
    const near = found.reduce((best, each) => (each.far < best.far ? each : best));
    const more = found.slice(0, 6).filter((each) => each !== near)
      .map((each) => `${seconds(this.model.timeOf(each))} ${this.model.words.describe(each).text}`);
    if (found.length > 6) more.push(`and ${found.length - 6} more: zoom in`);
    return this.said(near, `at ${seconds(this.model.timeOf(near), 6)}`, ...more);
  }

  inClient(name, t) {
    const { op } = this.model.trace.tables;
    const slack = (3 / this.view.width) * this.view.span;
    const found = [];
    this.model.ops.get(name).visit(t - slack, t + slack, (row) => found.push(row));
    if (!found.length) return null;
    const { outcomes } = this.model;
    const worst = found.reduce((a, b) => (outcomes[b] > outcomes[a] ? b : a));
    const counts = OUTCOMES.map((how, at) => [found.filter((row) => outcomes[row] === at).length, how])
      .filter(([count]) => count).map(([count, how]) => `${count} ${how}`);
    return this.said({ kind: "op", row: worst }, `began at ${seconds(orElse(op.begin[worst], op.t[worst]), 6)}`,
      found.length > 1 ? `${found.length} operations here: ${counts.join(", ")}` : "");
  }
}

function toSegment(x, y, { x0, y0, x1, y1 }) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy || 1;
  const share = Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / length));
  return Math.hypot(x - x0 - share * dx, y - y0 - share * dy);
}

// Drags on the lanes pan, clicks select; with Shift a drag marks a range to zoom into.
function wireLanes(app) {
  const canvas = byId("lanes");
  const scroll = byId("scroll");
  const { view } = app;
  let from = null;
  const local = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const [x, y] = local(event);
    from = { x, y, clientX: event.clientX, clientY: event.clientY, b: view.b, top: scroll.scrollTop,
      moved: false, range: event.shiftKey };
    canvas.setPointerCapture(event.pointerId);
    app.tip(null);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = local(event);
    if (!from) {
      view.hover = x >= GUTTER ? view.t(x) : null;
      app.hover(x, y, event);
      app.redraw();
      return;
    }
    const [dx, dy] = [event.clientX - from.clientX, event.clientY - from.clientY];
    if (Math.abs(dx) + Math.abs(dy) > 4) from.moved = true;
    if (!from.moved) return;
    if (from.range) {
      app.range = [from.x, x];
      app.redraw();
    } else {
      const shift = (dx / view.width) * view.span;
      view.show(from.b - shift, from.b - shift + view.span);
      scroll.scrollTop = from.top - dy;
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = local(event);
    const { moved, range } = from;
    if (moved && range) view.show(Math.min(view.t(from.x), view.t(x)), Math.max(view.t(from.x), view.t(x)));
    else if (!moved && x >= GUTTER) {
      const hit = app.finder.at(x, y);
      view.selected = hit && hit.ref ? hit.ref : null;
      // The number of a cause stands beside the time of its event.
      view.setCursor(hit && hit.number ? app.model.timeOf(hit.ref) : view.t(x));
    }
    app.range = null;
    from = null;
  });
  canvas.addEventListener("pointercancel", () => { from = null; app.range = null; });
  canvas.addEventListener("pointerleave", () => {
    view.hover = null;
    app.tip(null);
    app.redraw();
  });
  canvas.addEventListener("dblclick", (event) => {
    if (local(event)[0] >= GUTTER) view.zoom(0.3, view.t(local(event)[0]));
  });
}

// The axis moves the cursor, the small map moves the view; both while the button is down.
function wireStrips(app) {
  const { view } = app;
  const drag = (canvas, move) => {
    let down = false;
    const local = (event) => event.clientX - canvas.getBoundingClientRect().left;
    canvas.addEventListener("pointerdown", (event) => {
      down = true;
      canvas.setPointerCapture(event.pointerId);
      move(local(event), true, event);
    });
    canvas.addEventListener("pointermove", (event) => { if (down) move(local(event), false, event); });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { down = false; });
  };
  drag(byId("top"), (x, first, event) => {
    const hit = first && app.finder.inStrip(x, event.offsetY);
    if (hit) view.selected = hit.ref;
    view.setCursor(hit && hit.number ? app.model.timeOf(hit.ref) : view.t(Math.max(GUTTER, x)));
  });
  byId("top").addEventListener("pointermove", (event) => {
    app.tip(event.buttons ? null : app.finder.inStrip(event.offsetX, event.offsetY), event);
  });
  byId("top").addEventListener("pointerleave", () => app.tip(null));
  let grip = 0;
  drag(byId("mini"), (x, first) => {
    const t = app.minimap.t(x);
    // Outside of the seen part the view jumps there; inside it is taken along.
    if (first) grip = t > view.b && t < view.e ? t - view.b : view.span / 2;
    view.show(t - grip, t - grip + view.span);
  });
  const wheel = (event, time) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 400 : 1;
    const [dx, dy] = [event.deltaX * lines, event.deltaY * lines];
    if (event.shiftKey || Math.abs(dx) > Math.abs(dy)) view.pan((dx || dy) / view.width);
    else if (event.altKey) byId("scroll").scrollTop += dy;
    else view.zoom(Math.exp(Math.max(-1, Math.min(1, dy * 0.0022))), time);
  };
  for (const id of ["top", "lanes"]) {
    byId(id).addEventListener("wheel", (event) => {
      const x = event.clientX - byId(id).getBoundingClientRect().left;
      wheel(event, view.t(Math.max(GUTTER, x)));
    }, { passive: false });
  }
  byId("mini").addEventListener("wheel", (event) => wheel(event, view.centre()), { passive: false });
}

function wireKeys(app) {
  const { view } = app;
  const keys = {
    ArrowLeft: (event) => view.pan(event.shiftKey ? -0.8 : -0.12),
    ArrowRight: (event) => view.pan(event.shiftKey ? 0.8 : 0.12),
    ArrowUp: () => { byId("scroll").scrollTop -= 60; },
    ArrowDown: () => { byId("scroll").scrollTop += 60; },
    "+": () => view.zoom(0.6), "=": () => view.zoom(0.6), "-": () => view.zoom(1 / 0.6),
    Home: () => view.toAll(), 0: () => view.toAll(), v: () => view.toViolation(),
    n: () => app.events.step(1), p: () => app.events.step(-1),
    "]": () => app.cause(1), "[": () => app.cause(-1),
    ",": () => view.setCursor(view.cursor - view.span / 200, { reveal: true }),
    ".": () => view.setCursor(view.cursor + view.span / 200, { reveal: true }),
    "/": () => app.events.filter.focus(), "?": () => app.help(),
    Escape: () => { view.selected = null; view.changed(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (byId("help").open && event.key !== "?") return; // Esc closes it, Tab stays in it
    if (event.target.matches && event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const number = "1234".indexOf(event.key);
    const group = number >= 0 ? app.model.messages[number] : null;
    if (group) {
      view.showGroup(group.name, !group.kinds.every((kind) => view.kinds.has(kind.name)));
      view.changed();
    } else if (keys[event.key]) keys[event.key](event);
    else return;
    event.preventDefault();
  });
}
