"use strict";
// The table of every node's state at the cursor.

const STATE_NAMES = 98; // px
const STATE_COLUMNS = [86, 74]; // up to three nodes, more

class StateTable {
  constructor(model) {
    this.model = model;
    this.title = el("h2", {});
    this.body = el("tbody");
    const wanted = STATE_NAMES + model.nodes.length * STATE_COLUMNS[model.nodes.length > 3 ? 1 : 0];
    byId("side").style.setProperty("--wanted", `${wanted + 36}px`);
    byId("state").append(this.title, el("div", { class: "table" }, el("table", {
      // A column stays where it is while the words in it change.
      style: `min-width:${wanted}px`,
    }, el("thead", {}, el("tr", {}, el("th", { style: `width:${STATE_NAMES}px` }),
      ...model.nodes.map((name) => el("th", {}, name)))),
      this.body)));
    this.rows = new Map();
  }

  update(t) {
    if (t === this.shown) return;
    this.shown = t;
    const { model } = this;
    const { acks } = model;
    const at = upperBound(acks.t, t) - 1;
    const { ack } = model.trace.tables;
    const acked = at < 0 ? "nothing acknowledged yet"
      : `acknowledged to ${lsnText(ack.lsn[acks.rows[at]])} on ${
        model.reader.text("ack", "branch", acks.rows[at])}`;
    this.title.replaceChildren(`State at ${seconds(t)}`, el("small", {}, acked));
    const states = model.nodes.map((name) => this.state(name, t));
    // Who has not got what was acknowledged, as far as positions tell: an acknowledgement counts
    // until another one is shown, also after the servers have gone on.
    if (at >= 0) for (const state of states) state.lacks = state.end < ack.lsn[acks.rows[at]];
    const writers = states.filter((state) => state.writes).length;
    for (const [key, title, explain] of STATE_ROWS) {
      const row = this.row(key, title, explain);
      // What this trace never says needs no row; one that was needed stays.
      if (states.some((state) => state[key])) row.hidden = false;
      states.forEach((state, column) => {
        const cell = row.children[column + 1];
        const text = state[key] || "–";
        if (cell.textContent !== text) cell.textContent = text;
        cell.className = this.style(key, state, writers);
        const swatch = key === "branch" && state.colour ? `var(--${state.colour})` : "";
        cell.style.boxShadow = swatch ? `inset 5px 0 0 ${swatch}` : "";
      });
    }
  }

  style(key, state, writers) {
    if (key === "serves" && state.writes) return writers > 1 ? "alarm" : "strong";
    if (key === "sync") return state.nobody ? "warning" : "";
    if (key === "role" && state.leads) return "strong";
    if (key === "agent" && state.agent !== "up") return "trouble";
    if (key === "lsn" && state.lacks) return "trouble";
    if (key === "guard" && state.guard && !state.guard.startsWith("up")) return "trouble";
    return "";
  }

  row(key, title, explain) {
    let row = this.rows.get(key);
    if (!row) {
      row = el("tr", { hidden: true }, el("th", { title: explain }, title),
        ...this.model.nodes.map(() => el("td")));
      this.rows.set(key, row);
      this.body.append(row);
    }
    return row;
  }

  state(name, t) {
    const { reader, trace } = this.model;
    const row = (kind) => rowAt(reader.rows(kind, name), trace.tables[kind].t, t);
    const [node, pg] = ["node", "pg"].map(row);
    const state = {};
    if (node !== NONE) {
      const text = (column) => reader.text("node", column, node);
      const [term, promised] = ["term", "promised"].map((key) => reader.number("node", key, node));
      const host = text("host");
      state.agent = host && host !== "up" ? `host ${host}` : text("agent");
      state.leads = text("role") === "leader";
      const stated = term === null ? "" : ` · ${term}`;
      const further = promised > term ? `, promised ${promised}` : "";
      state.role = text("role") ? `${text("role")}${stated}${further}` : "";
      state.leader = text("leader");
      state.guard = this.model.witnesses.has(name) ? "" : text("guard");
      const armed = reader.number("node", "armed", node);
      if (armed) state.guard += `, term ${armed}`;
    }
    const lane = this.model.lanes.get(name);
    const lease = this.right("lease", name, lane.leases, t);
    if (lease) state.lease = lease.text;
    const hold = this.right("hold", name, lane.holds, t);
    if (hold) state.hold = `${hold.whom || "the last leader"}, ${hold.text}`;
    else if (lane.holds.length && state.agent === "up" && !state.leads) state.hold = "nobody";
    const waits = waitsAt(lane, t);
    if (waits) Object.assign(state, { sync: waits.text.replace(/ (?==)|(?<==) /g, "\u00a0"), nobody: waits.nobody });
    if (pg !== NONE) this.server(state, pg);
    return state;
  }

  // Of a lease or a hold at this time: what is left of what its newest renewal gave, or null.
  right(kind, name, segments, t) {
    const s = segments[segmentAt(segments, t)];
    if (!s || s.b > t) return null;
    const left = this.model.trace.tables[kind].until[this.model.stateAt(kind, name, t)] - t;
    const last = s.renewals[upperBound(s.renewals, t) - 1];
    const text = `${(left / 1e9).toFixed(2)} of ${(left / 1e9 + (t - last) / 1e9).toFixed(2)} s left`;
    return left > 0 ? { whom: s.whom, text } : null;
  }

  server(state, pg) {
    const { reader } = this.model;
    const recovery = reader.flag("pg", "recovery", pg);
    const admit = reader.flag("pg", "admit", pg);
    const frozen = reader.flag("pg", "frozen", pg);
    const process = reader.text("pg", "process", pg);
    state.process = frozen ? `${process}, frozen` : process;
    const primary = admit === false ? "primary: writable, closed to clients" : "primary: writable";
    state.serves = recovery === null ? "" : recovery ? "standby" : primary;
    state.writes = process === "running" && recovery === false && !frozen;
    const tli = reader.number("pg", "tli", pg);
    const branch = reader.text("pg", "branch", pg) || null;
    state.branch = [tli, branch].filter(Boolean).join(" · ");
    state.colour = branch ? this.model.branchColour(branch) : "";
    const lsn = reader.number("pg", "lsn", pg);
    state.end = lsn === null ? Infinity : lsn;
    state.lsn = lsn === null ? "" : lsnText(lsn);
    state.upstream = reader.text("pg", "upstream", pg);
    const data = reader.text("pg", "data", pg);
    if (data && data !== "present") state.data = data;
  }
}

const STATE_ROWS = [
  ["agent", "agent", "the metako process"],
  ["role", "role · term", "in the agreement; and the term that it has promised itself to, if higher"],
  ["leader", "leader", "whom the agent takes for the leader"],
  ["serves", "serves as", "a primary is not in recovery and can write, also while clients are not admitted"],
  ["sync", "commits wait for", "of a primary, or of who is to be one: how many standbys have to have a commit before it returns"],
  ["lease", "lease", "the right to be writable: how much is left of what its last renewal gave"],
  ["hold", "holds for", "votes for nobody else: for how long, of what the leader's last heartbeat gave"],
  ["guard", "guard", "the process that fences PostgreSQL"],
  ["process", "postgres", "the server's processes"],
  ["branch", "tli · branch", "PostgreSQL's timeline, and the true history, which no node can see"],
  ["lsn", "LSN", "end of its WAL, to 100 ms; in red if something acknowledged lies beyond it"],
  ["upstream", "set to follow", "the server that its settings name; whether WAL flows is another matter: see LSN"],
  ["data", "data", "if the data directory is not present"],
];
