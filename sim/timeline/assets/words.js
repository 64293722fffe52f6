"use strict";
// Say in words what an event is. Knows the kinds of a trace and no rule of the cluster.

const CHECKS = {
  // What it means that a promise is broken; the checker's own text says what happened.
  codec: "A message did not come back from its bytes as it was.",
  engine: "The engine of a node failed.",
  expected: "The run did not go as its scenario expects.",
  failed_present: "A write that a client was told had failed is there.",
  exception: "The simulator itself failed.",
  false_failover: "A healthy primary was replaced.",
  flapping: "The cluster elects again and again without a cause.",
  foreign_served: "A server serves data that it must never serve.",
  lost_write: "A commit that a client was told about is gone.",
  no_recovery: "No primary came back although one could.",
  not_converged: "The cluster did not become whole after the faults had ended.",
  not_durable: "A node acted on something that it had not written to disk.",
  one_acknowledger: "Two servers could acknowledge commits at the same time.",
  one_document: "Two cluster documents have the same number.",
  one_leader: "Two nodes led in the same term.",
  unguarded: "A server could write while no guard was armed to end it.",
  beyond_lease: "A server could write although the voters held for its node no more.",
  slow_failover: "After the peace the primary was lost once more, nothing else was wrong, and nobody replaced it in time.",
  fenced_in_vain: "A guard ended its server although the node's lease was being renewed.",
  refused_in_vain: "A proxy refused a session as if its agent were gone, which was well.",
  slow_handover: "A lease was given up, and no election followed at once.",
  slow_switchover: "A planned change of the primary did not come to its end, although all was well.",
  switchover_failed: "A planned change of the primary failed although all was well.",
  switchover_rewound: "A planned change of the primary left it with WAL that nobody else had.",
  usurped: "A node took over although the cluster was paused, and nobody had ordered it.",
  not_restarted: "A server was said to have been restarted, and had not been.",
  restarted_twice: "A server was restarted twice by one order.",
  order_twice: "An operator's order was done, or answered, twice.",
  order_unanswered: "A node that is well did not answer an operator's order.",
  stale_listing: "Somebody dead, no member, or with other data, stayed in the sync set.",
  death_unnoticed: "A dead host was held alive for too long, or got reads.",
  slot_kept: "A server keeps WAL that nobody will ever read.",
  one_timeline: "Two promotions took the same timeline number.",
  guarded_promotion: "A server was promoted while no guard was armed to end it.",
  by_minority: "A leader was elected, or a document committed, without most of the voters.",
  lease_of_former_voters: "A server could write although voters enough to elect another one were free to.",
  member_stuck: "A change of the members was accepted and not carried out, although all was well.",
  removed_serves: "A node that knows it was removed still has a running server.",
  unordered_change: "The members of the cluster changed, and no operator had ordered that.",
  vote_given_early: "A node got a vote before it had caught up.",
  vote_needed: "A vote was taken away that the others cannot do without.",
  vote_of_stranger: "A node that is no member voted, or answered a leader.",
  voters_step: "Votes changed before the change before it had settled.",
  one_vote: "A node voted twice in one term.",
  one_writable: "Two servers were writable at the same time.",
  promise_broken: "A node broke a promise to an earlier candidate.",
  promise_untrue: "A node told a candidate something that was not so.",
  record_back: "A node's durable record went back.",
  stale_route: "A proxy led clients to the wrong server.",
  standby_first: "A server was writable without having been promoted.",
  sync_invariant: "The standbys that commits wait for do not fit the document.",
  strict_lowered: "Strict durability wants a fixed number of copies of every commit; a change made commits wait for fewer.",
  foreign_replaced: "A node had data of another database system. They are somebody's, and must be left alone; they were overwritten.",
  unattached_read: "Reads were led to a standby that follows nobody, so what it shows is old.",
  strict_copies: "A commit was acknowledged with fewer copies than strict durability promises.",
  too_much: "Something grew without bound.",
  writes_stuck: "Writes did not come back although they could.",
  wrongly_dead: "A node that is well was declared dead.",
};

const LEVELS = { DEBUG: 0, TRACE: 0, STATE: 0, INFO: 1, WARNING: 2, ERROR: 3, CRITICAL: 4 };

function seconds(ns, digits = 3) {
  return `${(ns / 1e9).toFixed(digits)} s`;
}

function duration(ns) {
  const size = Math.abs(ns);
  if (size < 1e3) return `${ns} ns`;
  if (size < 1e6) return `${trimmed(ns / 1e3)} µs`;
  if (size < 1e9) return `${trimmed(ns / 1e6)} ms`;
  return `${trimmed(ns / 1e9)} s`;
}

function trimmed(value) {
  const size = Math.abs(value);
  return String(Number(value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 2)));
}

function plural(count, one, many) {
  return `${grouped(count)} ${count === 1 ? one : many || `${one}s`}`;
}

function lsnText(lsn) {
  if (lsn === null || Number.isNaN(lsn)) return "–";
  const high = Math.floor(lsn / 4294967296);
  return `${high.toString(16).toUpperCase()}/${(lsn % 4294967296).toString(16).toUpperCase()}`;
}

function spaced(name) {
  return String(name || "").replace(/[_-]+/g, " ");
}

// A branch as a phrase: the name alone, if it says what it is.
function branchText(branch) {
  if (!branch) return "no branch";
  return branch.startsWith("branch") ? branch : `branch ${branch}`;
}

// What commits wait for; "" if the trace does not say.
function waitsText(k, sync) {
  if (k === null && !sync.length) return "";
  if (k === 0) return "nobody (k = 0)";
  return sync.length ? `${k === null ? "" : `${k} of `}${sync.join(", ")}` : "nobody (no standby is listed)";
}

// For whom a voter holds: after its restart it does not know for whom it did.
function holdText(whom) {
  return whom ? `holds for ${whom}` : "holds, for whomever it did before its restart,";
}

// Of a lease or a hold: how often it was renewed.
function renewedText({ renewals }) {
  const times = renewals.length - 1;
  return times ? `renewed ${plural(times, "time")}, last at ${seconds(renewals[times])}` : "not renewed";
}

// Of a lease or a hold: how it ends, and how long after what kept it alive. What would last beyond
// the run has not run out.
function endText({ end }, { e, released, renewals }, what) {
  const took = e - renewals[renewals.length - 1];
  const after = `${took < 1e9 ? duration(took) : seconds(took, 2)} after the last ${what}`;
  if (released) return `${what === "renewal" ? "given up" : "released"} at ${seconds(e)}, ${after}`;
  if (e >= end) return `until ${seconds(e)}, after the end of the run: ${after}`;
  return `until ${seconds(e)}, when it ran out: ${after}`;
}

// What a checker's name means, for a reader who does not know it.
function checkMeaning(check) {
  return CHECKS[check] || "";
}

class Words {
  constructor(reader) {
    this.reader = reader;
    this.trace = reader.trace;
  }

  // {node, level, text}: level is a name of LEVELS or FAULT, MARK, VIOLATION.
  describe({ kind, row }) {
    const say = this[kind];
    return say ? say.call(this, row) : { node: "", level: "DEBUG", text: kind };
  }

  // What differs from the row before. A part is a column, or several that say one thing together,
  // and how to say it.
  changes(kind, row, parts) {
    const node = this.reader.text(kind, "n", row) || "";
    const before = this.reader.previous(kind, row);
    const said = [];
    const cells = (columns, at) => (Array.isArray(columns)
      ? columns.map((column) => this.reader.cell(kind, column, at))
      : this.reader.cell(kind, columns, at));
    for (const [columns, say] of parts) {
      const now = cells(columns, row);
      const old = before === NONE ? undefined : cells(columns, before);
      if (JSON.stringify(now) === JSON.stringify(old)) continue;
      const text = say(now, old);
      if (text) said.push(text);
    }
    return { node, level: "STATE", text: said.join(", ") || "unchanged" };
  }

  node(row) {
    const node = this.reader.text("node", "n", row);
    return this.changes("node", row, [
      ["host", (now, old) => (now === "up" && old === undefined ? "" : `host ${now}`)],
      ["agent", (now) => `agent ${now}`],
      ["guard", (now, old) => (now === "up" && old === undefined ? "" : `guard ${now}`)],
      ["role", (now, old) => (old ? `${old} → ${now}` : now || "")],
      ["term", (now, old) => (old >= 0 ? `term ${old} → ${now}` : `term ${now}`)],
      ["promised", (now) => (now > this.reader.number("node", "term", row)
        ? `promised to term ${now}` : "")],
      ["leader", (now) => (now === node ? "leads" : now ? `follows ${now}` : "knows no leader")],
      ["armed", (now) => (now ? `guard armed for term ${now}` : "guard not armed")],
    ]);
  }

  pg(row) {
    const primary = this.reader.flag("pg", "recovery", row) === false;
    return this.changes("pg", row, [
      ["process", (now, old) => (old ? `PostgreSQL ${old} → ${now}` : `PostgreSQL ${now}`)],
      ["recovery", (now) => (now === false ? "writable: it is a primary"
        : now ? "in recovery: it is a standby" : "")],
      ["frozen", (now, old) => (now ? "frozen" : old ? "runs again" : "")],
      ["tli", (now) => (now === null ? "" : `timeline ${now}`)],
      ["branch", (now) => (now ? branchText(now) : "")],
      ["upstream", (now, old) => (now ? `set to follow ${now}` : old ? "set to follow nobody" : "")],
      [["k", "sync"], ([k, sync], old) => {
        const text = waitsText(k, asTexts(sync));
        if (!text || (old === undefined && !primary)) return "";
        return `${primary ? "commits wait" : "set to let commits wait"} for ${text}`;
      }],
      ["admit", (now) => (now ? "admits clients" : now === false
        ? `closed to clients${primary ? ", still writable" : ""}` : "")],
      ["data", (now, old) => (old !== undefined || now !== "present" ? `data ${now}` : "")],
      ["lsn", (now, old) => (old === undefined ? "" : `LSN ${lsnText(now)}`)],
    ]);
  }

  lease(row) {
    const t = this.trace.tables.lease.t[row];
    const until = this.reader.number("lease", "until", row);
    const node = this.reader.text("lease", "n", row) || "";
    if (!until) return { node, level: "STATE", text: "has no lease any more" };
    return {
      node, level: "STATE",
      text: `holds the lease until ${seconds(until)} (${duration(until - t)} left)`,
    };
  }

  hold(row) {
    const until = this.reader.number("hold", "until", row);
    const text = until ? `${holdText(this.reader.text("hold", "for", row))} until ${seconds(until)}`
      : "holds for nobody";
    return { node: this.reader.text("hold", "n", row) || "", level: "STATE", text };
  }

  msg(row) {
    const { reader } = this;
    const from = reader.text("msg", "from", row);
    const term = reader.number("msg", "term", row);
    const at = reader.number("msg", "at", row);
    const fate = reader.text("msg", "fate", row) || "";
    const took = at === null ? "" : ` after ${duration(at - this.trace.tables.msg.t[row])}`;
    const how = {
      delivered: `arrives${took}`, lost: "is lost on the way", cut: "does not get through: cut",
      clogged: at === null ? "waits: clogged" : `arrives${took}: was clogged`,
      corrupt: `arrives damaged${took} and is dropped`, down: "finds nobody",
    }[fate] || `${spaced(fate)}${took}`;
    const what = reader.text("msg", "kind", row);
    const to = reader.text("msg", "to", row);
    const says = reader.text("msg", "says", row);
    const said = `${what} ${from} → ${to}${term === null ? "" : ` (term ${term})`} ${how}`;
    return { node: from || "", level: "DEBUG", text: says ? `${said}: ${says}` : said };
  }

  log(row) {
    const level = (this.reader.text("log", "level", row) || "INFO").toUpperCase();
    const name = this.reader.text("log", "name", row);
    return {
      node: this.reader.text("log", "n", row) || "", level: level in LEVELS ? level : "INFO",
      text: this.reader.text("log", "text", row) || spaced(name),
    };
  }

  step(row) {
    const { reader } = this;
    const begin = reader.number("step", "begin", row);
    const end = reader.number("step", "end", row);
    const took = begin === null || end === null ? "" : ` after ${duration(end - begin)}`;
    const good = reader.flag("step", "ok", row) !== false;
    const error = reader.text("step", "error", row);
    return {
      node: reader.text("step", "n", row) || "", level: good ? "INFO" : "WARNING",
      text: `step ${reader.text("step", "step", row)} ${good ? "done" : "failed"}${took}${
        error ? `: ${error}` : ""}`,
    };
  }

  op(row) {
    const { reader } = this;
    const part = (column) => reader.text("op", column, row);
    const begin = reader.number("op", "begin", row);
    const end = reader.number("op", "end", row);
    const result = part("result");
    const where = [part("via") && `via ${part("via")}`, part("n") && `on ${part("n")}`];
    const what = part("kind") === "read" ? `reads ${part("key")}`
      : `writes ${part("value") || part("key")}`;
    const took = begin === null || end === null ? "" : ` after ${duration(end - begin)}`;
    const said = [what, ...where.filter(Boolean)].join(" ");
    return {
      node: part("c") || "", level: result === "ok" ? "DEBUG" : "STATE",
      text: `${said}: ${result}${took}${part("why") ? ` (${part("why")})` : ""}`,
    };
  }

  ack(row) {
    const { reader } = this;
    return {
      node: reader.text("ack", "n", row) || "", level: "DEBUG",
      text: `commit of ${reader.text("ack", "value", row) || "a client"} acknowledged at ${lsnText(
        reader.number("ack", "lsn", row))}, timeline ${reader.number("ack", "tli", row)}, ${
        branchText(reader.text("ack", "branch", row))}`,
    };
  }

  fault(row) {
    const text = this.reader.text("fault", "text", row)
      || spaced(this.reader.text("fault", "do", row));
    return { node: this.reader.list("fault", "nodes", row).join(" "), level: "FAULT", text };
  }

  fault_end(row) {
    const id = this.reader.number("fault_end", "id", row);
    const begun = this.trace.tables.fault.id ? this.trace.tables.fault.id.indexOf(id) : NONE;
    if (begun < 0) return { node: "", level: "FAULT", text: `fault ${id} ends` };
    const { node, text } = this.fault(begun);
    return { node, level: "FAULT", text: `over: ${text}` };
  }

  mark(row) {
    const text = this.reader.text("mark", "text", row);
    const name = spaced(this.reader.text("mark", "name", row));
    return {
      node: this.reader.text("mark", "n", row) || "", level: "MARK",
      text: text ? `${name}: ${text}` : name,
    };
  }

  phase(row) {
    return { node: "", level: "MARK", text: `phase: ${this.reader.text("phase", "name", row)}` };
  }

  violation(row) {
    return {
      node: this.reader.list("violation", "nodes", row).join(" "), level: "VIOLATION",
      text: this.reader.text("violation", "text", row)
        || spaced(this.reader.text("violation", "check", row)),
    };
  }
}
