"use strict";
// What each lane shows, as lists of segments: computed once, then only searched and drawn.
// A segment is {b, e, row, …}: begin and end in ns, and the row of the trace that it comes from.

const AGREEMENT = ["Inquiry", "InquiryReply", "PreVoteRequest", "PreVoteReply", "VoteRequest",
  "VoteReply", "Candidacy", "Release", "TermRejected", "DocumentOffer", "DocumentCopy",
  "DocumentAck"];
const GROUPS = [
  { name: "agreement", kinds: AGREEMENT },
  { name: "heartbeats", kinds: ["Heartbeat", "HeartbeatAck"] },
  { name: "gossip", kinds: ["Ping", "PingRequest", "Ack", "Nack", "Gossip", "PushPull", "Hello"] },
  { name: "other", kinds: [] },
];

const OUTCOMES = ["", "ok", "unknown", "failed"]; // of operations, the worst last

const STATE_KINDS = new Set(["node", "pg", "lease", "hold"]);
const RAN_OUT = 3e6; // ns

const ON_NETWORK = new Set(["partition", "isolate", "cut", "bridge", "majority_ring", "link", "clog",
  "unclog", "heal"]);
const ON_CLIENTS = new Set(["cancel_waiting", "client_storm", "reconnect"]);

class Model {
  constructor(trace, reader) {
    this.trace = trace;
    this.reader = reader;
    this.words = new Words(reader);
    const { tables } = trace;
    this.begin = 0;
    this.end = Math.max(trace.last, 1e6);
    this.branches = new Map(); // branch → number of its colour, in order of appearance
    this.witnesses = new Set(asTexts(trace.run.witnesses));
    const declared = [...asTexts(trace.run.nodes), ...this.witnesses];
    this.nodes = withFound(declared, reader, ["node", "pg", "lease", "log", "step"], "n");
    this.colours = new Map(this.nodes.map((name, at) => [name, `node${at % NODE_COLOURS}`]));
    this.clients = withFound(asTexts(trace.run.clients), reader, ["op"], "c");
    this.lanes = new Map(this.nodes.map((name) => [name, this.nodeLane(name)]));
    this.primaries = this.whoWrites();
    this.acks = this.acknowledged();
    this.outcomes = this.rankOutcomes();
    this.ops = new Map(this.clients.map((name) => [name, this.operations(name)]));
    this.faults = this.faultList();
    this.faultsAtOnce = Math.max(1, this.mostAtOnce());
    this.faultRows = 1; // lines for their labels; set when the room is known
    this.phases = this.phaseList();
    this.messages = this.messageGroups();
    this.violation = this.firstViolation();
    this.counts = this.count(tables);
  }

  branchColour(branch) {
    if (!branch) return "none";
    if (!this.branches.has(branch)) this.branches.set(branch, this.branches.size % BRANCH_COLOURS);
    return `branch${this.branches.get(branch)}`;
  }

  // Of what belongs to a node wherever it is drawn: its lease, and the holds of others for it.
  nodeColour(name) {
    return this.colours.get(name) || "hold";
  }

  nodeLane(name) {
    const { reader } = this;
    const { tables } = this.trace;
    const rows = (kind) => reader.rows(kind, name);
    const lane = {
      name,
      roles: this.merged("node", rows("node"), (row) => this.role(row)),
      guards: this.merged("node", rows("node"), (row) => {
        // A witness has no server to guard, and a host that is down says so itself.
        const guard = reader.text("node", "guard", row);
        const meant = !this.witnesses.has(name) && reader.text("node", "host", row) !== "down";
        return meant && guard && guard !== "up" ? { guard } : null;
      }),
      servers: this.merged("pg", rows("pg"), (row) => this.server(row)),
      leases: this.rights("lease", rows("lease")),
      holds: this.rights("hold", rows("hold")),
      logs: rows("log"),
      marks: rows("mark"),
      steps: new Intervals(
        Array.from(rows("step")), (row) => orElse(tables.step.begin[row], tables.step.t[row]),
        (row) => orElse(tables.step.end[row], tables.step.t[row])),
    };
    lane.database = lane.servers.length > 0 || !this.witnesses.has(name);
    lane.waits = this.waits(lane, rows("pg"));
    return lane;
  }

  // Segments of rows in a row that show the same; `show` gives what they show, or null.
  merged(kind, rows, show) {
    const { t } = this.trace.tables[kind];
    const segments = [];
    let open = null;
    let key = "";
    for (const row of rows) {
      const shown = show(row);
      const now = shown === null ? "" : JSON.stringify(shown);
      if (now === key && open) continue;
      if (open) open.e = t[row];
      open = shown === null ? null : { ...shown, b: t[row], e: this.end, row };
      key = now;
      if (open) segments.push(open);
    }
    return segments.filter((segment) => segment.e > segment.b || segment.e === this.end);
  }

  role(row) {
    const { reader } = this;
    const part = (column) => reader.text("node", column, row);
    const [host, agent] = [part("host") || "up", part("agent") || "up"];
    const term = reader.number("node", "term", row);
    const promised = reader.number("node", "promised", row);
    if (host === "down") return { role: "host down", cover: "", term: null, promised: null };
    if (agent === "down" || agent === "stopped") {
      return { role: `agent ${agent}`, cover: "", term: null, promised: null };
    }
    const cover = host === "suspended" ? "suspended" : agent === "paused" ? "paused" : "";
    return { role: part("role") || "unknown", cover, term, promised };
  }

  server(row) {
    const { reader } = this;
    const process = reader.text("pg", "process", row) || "unknown";
    const data = reader.text("pg", "data", row) || "present";
    const recovery = reader.flag("pg", "recovery", row);
    const branch = reader.text("pg", "branch", row) || null; // a server without data has none
    if (branch !== null) this.branchColour(branch);
    const serves = recovery === null ? "" : recovery ? "standby" : "primary";
    return {
      process, serves, branch, frozen: reader.flag("pg", "frozen", row) === true,
      closed: reader.flag("pg", "admit", row) === false && serves === "primary",
      tli: reader.number("pg", "tli", row), data,
    };
  }

  // What commits wait for, while a server is a primary or its agent leads and wants it to be one.
  waits(lane, rows) {
    const set = this.merged("pg", rows, (row) => {
      const k = this.reader.number("pg", "k", row);
      const sync = this.reader.list("pg", "sync", row).map(String);
      const process = this.reader.text("pg", "process", row);
      const primary = process === "running" && this.reader.flag("pg", "recovery", row) === false;
      const text = waitsText(k, sync);
      return text ? { text, nobody: !(k > 0 && sync.length), primary } : null;
    });
    const segments = [];
    for (const s of set) {
      const add = (b, e) => {
        const before = segments[segments.length - 1];
        if (before && before.e === b && before.text === s.text) before.e = e;
        else if (e > b || (e === b && e === this.end)) segments.push({ ...s, b, e });
      };
      if (s.primary) add(s.b, s.e);
      else {
        for (let at = segmentAt(lane.roles, s.b); at < lane.roles.length && lane.roles[at].b <= s.e; at++) {
          const role = lane.roles[at];
          if (role.role === "leader") add(Math.max(s.b, role.b), Math.min(s.e, role.e));
        }
      }
    }
    return segments;
  }

  // Leases and holds: a right until a stated time, renewed by later rows. `sure` is how long it
  // was had for certain; from there to the end it ran out.
  rights(kind, rows) {
    const { t, until } = this.trace.tables[kind];
    const segments = [];
    let open = null;
    for (const row of rows) {
      const now = t[row];
      const whom = kind === "hold" ? this.reader.text("hold", "for", row) : null;
      const on = until[row] > now;
      if (open && open.e > now) {
        if (on && whom === open.whom) {
          Object.assign(open, { e: until[row], sure: now });
          open.renewals.push(now);
          continue;
        }
        // What is seen to have ended a moment before it would have has run out.
        if (on || open.e - now > RAN_OUT) Object.assign(open, { sure: now, released: true });
        open.e = now;
      }
      open = null;
      if (on) {
        open = { b: now, e: until[row], sure: now, released: false, renewals: [now], whom, row };
        segments.push(open);
      }
    }
    return segments;
  }

  // Which servers were writable, over time; one that is closed to clients as well.
  whoWrites() {
    const edges = [];
    for (const lane of this.lanes.values()) {
      for (const s of lane.servers) {
        if (s.process !== "running" || s.serves !== "primary" || s.frozen) continue;
        const who = { name: lane.name, branch: s.branch, closed: s.closed };
        edges.push({ t: s.b, who, on: true });
        if (s.e < this.end) edges.push({ t: s.e, who, on: false });
      }
    }
    edges.sort((a, b) => a.t - b.t || a.on - b.on);
    const segments = [];
    const now = [];
    edges.forEach((edge, at) => {
      if (edge.on) now.push(edge.who);
      else now.splice(now.indexOf(edge.who), 1);
      const e = at + 1 < edges.length ? edges[at + 1].t : this.end;
      const last = at + 1 === edges.length || edges[at + 1].t > edge.t;
      if (now.length && last && edge.t <= this.end) segments.push({ b: edge.t, e, who: now.slice() });
    });
    return segments;
  }

  acknowledged() {
    const { ack } = this.trace.tables;
    const rows = [];
    for (let row = 0; row < ack.size; row++) if (!Number.isNaN(ack.lsn[row])) rows.push(row);
    return { rows: Int32Array.from(rows), t: Float64Array.from(rows, (row) => ack.t[row]) };
  }

  // How each operation ended, as an index into OUTCOMES: looked at for each at every drawing.
  rankOutcomes() {
    const { op } = this.trace.tables;
    const ranks = OUTCOMES.map((name) => this.trace.index.get(name));
    return Uint8Array.from({ length: op.size }, (_, row) => {
      const rank = ranks.indexOf(op.result[row]);
      return rank > 0 ? rank : OUTCOMES.indexOf("unknown");
    });
  }

  operations(client) {
    const { op } = this.trace.tables;
    const rows = Array.from(this.reader.rows("op", client, "c"));
    return new Intervals(rows, (row) => orElse(op.begin[row], op.t[row]),
      (row) => orElse(op.end[row], op.t[row]));
  }

  faultList() {
    const { reader } = this;
    const { fault, fault_end: over } = this.trace.tables;
    const ends = new Map();
    for (let row = 0; row < over.size; row++) ends.set(over.id[row], over.t[row]);
    const list = [];
    for (let row = 0; row < fault.size; row++) {
      const what = reader.text("fault", "do", row) || "";
      const end = ends.has(fault.id[row]) ? ends.get(fault.id[row]) : this.end;
      const text = reader.text("fault", "text", row) || spaced(what);
      list.push({
        b: fault.t[row], e: end, row, what, text, instant: end === fault.t[row],
        ended: ends.has(fault.id[row]), nodes: asTexts(reader.value("fault", "nodes", row)),
        network: ON_NETWORK.has(what) || text.includes("|"), clients: ON_CLIENTS.has(what),
        ...this.separation(what, row, text),
      });
    }
    return list.sort((a, b) => a.b - b.b);
  }

  // Who is separated from whom, as far as the fault says it: groups, or directed pairs.
  separation(what, row, text) {
    const args = this.reader.value("fault", "args", row) || {};
    const known = (names) => names.filter((name) => this.lanes.has(name));
    const named = (key) => known(args[key] === "*" ? this.nodes : asTexts(args[key]));
    let groups = [];
    if (Array.isArray(args.groups)) groups = args.groups.map((group) => known(asTexts(group)));
    else if (what === "isolate") {
      const alone = named("node");
      groups = [...alone.map((name) => [name]), this.nodes.filter((name) => !alone.includes(name))];
    } else if (text.includes("|")) {
      groups = text.split("|").map((part) => known(part.split(/[\s,()[\]:]+/)));
    }
    groups = groups.filter((group) => group.length);
    if (groups.length > 1) {
      const way = { out: " (cannot send)", in: " (cannot hear)" }[args.direction] || "";
      return { groups, cuts: [], way };
    }
    const cuts = [];
    if (what !== "link") {
      for (const a of named("from")) for (const b of named("to")) if (a !== b) cuts.push([a, b]);
    }
    return { groups: [], cuts, way: "" };
  }

  mostAtOnce() {
    // Counted with the room of a label after each beginning: an instant has a label too.
    const room = (this.end - this.begin) * 0.12;
    const edges = this.faults.flatMap((f) => [[f.b, 1], [Math.max(f.e, f.b + room), -1]]);
    edges.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    let now = 0;
    let most = 0;
    for (const [, step] of edges) most = Math.max(most, now += step);
    return most;
  }

  phaseList() {
    const { phase } = this.trace.tables;
    return Array.from(phase.t, (b, row) => ({
      b, e: row + 1 < phase.size ? phase.t[row + 1] : this.end, row,
      name: this.reader.text("phase", "name", row) || "",
    }));
  }

  messageGroups() {
    const { msg } = this.trace.tables;
    const groups = GROUPS.map((group) => ({ ...group, kinds: [], total: 0 }));
    const flight = [];
    for (let row = 0; row < msg.size && flight.length < 999; row++) {
      if (msg.at[row] > msg.t[row]) flight.push(msg.at[row] - msg.t[row]);
    }
    flight.sort((a, b) => a - b);
    // How steep an arrow is drawn that never arrives.
    this.usualFlight = flight.length ? flight[flight.length >> 1] : 1e6;
    for (const [kind, rows] of rowsBy(msg, "kind")) {
      const name = kind === NONE ? "?" : this.trace.strings[kind];
      const at = GROUPS.findIndex((group) => group.kinds.includes(name));
      const group = groups[at < 0 ? GROUPS.length - 1 : at];
      const sent = Float64Array.from(rows, (row) => msg.t[row]);
      const index = new Intervals(Array.from(rows), (row) => msg.t[row],
        (row) => orElse(msg.at[row], msg.t[row] + this.usualFlight));
      group.kinds.push({ name, index, sent, total: rows.length });
      group.total += rows.length;
    }
    for (const group of groups) group.kinds.sort((a, b) => b.total - a.total);
    return groups.filter((group) => group.total);
  }

  firstViolation() {
    const { violation } = this.trace.tables;
    if (!violation.size) return null;
    const causes = [];
    const notes = this.reader.list("violation", "notes", 0);
    this.reader.list("violation", "causes", 0).forEach((i, at) => {
      const found = typeof i === "number" ? this.reader.find(i) : null;
      const note = typeof notes[at] === "string" ? notes[at] : "";
      if (found) causes.push({ ...found, t: this.timeOf(found), note });
    });
    causes.sort((a, b) => a.t - b.t);
    causes.forEach((cause, at) => { cause.number = at + 1; });
    return {
      row: 0, t: violation.t[0], causes, check: this.reader.text("violation", "check", 0) || "",
      text: this.words.violation(0).text, nodes: this.reader.list("violation", "nodes", 0),
      more: violation.size - 1,
    };
  }

  // The number of this event among the causes, or 0.
  causeNumber(kind, row) {
    const causes = this.violation ? this.violation.causes : [];
    const found = causes.find((cause) => cause.kind === kind && cause.row === row);
    return found ? found.number : 0;
  }

  // The lane that an event belongs to; null: to none.
  laneOf(kind, row) {
    if (kind === "op" || kind === "ack") return "clients";
    if (kind === "fault" || kind === "fault_end" || kind === "phase" || kind === "violation") return null;
    return this.reader.text(kind, kind === "msg" ? "from" : "n", row);
  }

  // Which lanes need room for the numbers of causes. Those of faults stand on the faults' bands.
  causePlaces() {
    const causes = this.violation ? this.violation.causes : [];
    const lanes = new Set(causes.map(({ kind, row }) => this.laneOf(kind, row)));
    return { lanes, clients: lanes.has("clients") };
  }

  // The row that tells of this node at this time, or NONE.
  stateAt(kind, name, t) {
    return rowAt(this.reader.rows(kind, name), this.trace.tables[kind].t, t);
  }

  // Whether a row of a kind that tells of a state still holds at this time.
  holdsAt({ kind, row }, t) {
    return STATE_KINDS.has(kind) && this.stateAt(kind, this.reader.text(kind, "n", row), t) === row;
  }

  // When something is best looked at: an operation and a step at their beginning.
  timeOf({ kind, row }) {
    const table = this.trace.tables[kind];
    return kind === "op" || kind === "step" ? orElse(table.begin[row], table.t[row]) : table.t[row];
  }

  count(tables) {
    const result = { ok: 0, failed: 0, unknown: 0, commits: 0, elections: 0 };
    const { op } = tables;
    for (let row = 0; row < op.size; row++) {
      const how = OUTCOMES[this.outcomes[row]];
      result[how] += 1;
      if (how === "ok" && this.reader.text("op", "kind", row) !== "read") result.commits += 1;
    }
    const terms = new Set();
    for (const lane of this.lanes.values()) {
      for (const segment of lane.roles) if (segment.role === "leader") terms.add(segment.term);
    }
    result.elections = terms.size;
    return result;
  }
}

function asTexts(value) {
  if (value === undefined || value === null) return [];
  return (Array.isArray(value) ? value : [value]).map(String);
}

function orElse(value, other) {
  return Number.isNaN(value) ? other : value;
}

// The declared names, then those that a torn trace mentions without having declared them.
function withFound(declared, reader, kinds, column) {
  const names = new Set(declared);
  if (names.size === 0) {
    for (const kind of kinds) {
      const table = reader.trace.tables[kind];
      if (!table.size) continue;
      for (const key of rowsBy(table, column).keys()) {
        if (key !== NONE) names.add(reader.trace.strings[key]);
      }
    }
  }
  return [...names];
}
