"use strict";
// The words around the drawing: header, bar, what led to a violation, the state at the cursor.

// Build an element. Texts become text nodes, so nothing in a trace is ever read as HTML.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function drawHeader(model) {
  const { run, end, unread, unknown, lines } = model.trace;
  const { violation, counts } = model;
  const bad = violation || (end && end.verdict === "violation");
  const torn = !end && !violation;
  const badge = bad ? ["bad", "✕ VIOLATION"] : torn ? ["torn", "… INCOMPLETE"] : ["ok", "✓ OK"];
  const number = (value, one, many, title) => el("span", { class: "count", title },
    el("b", {}, grouped(value)), ` ${value === 1 ? one : many}`);
  const given = (key, own) => (end && typeof end[key] === "number" ? end[key] : own);
  byId("head").replaceChildren(
    el("div", { class: `verdict ${badge[0]}` }, badge[1]),
    el("div", { class: "what" },
      el("h1", {}, String(run.scenario || "a run"), el("span", { class: "seed" }, ` seed ${
        run.seed === undefined ? "?" : run.seed}`)),
      el("p", { class: "plain" }, ...plainWords(model, torn))),
    el("div", { class: "facts" },
      el("div", { class: "counts" },
        number(given("elections", counts.elections), "election", "elections", "elections that were won"),
        number(given("acknowledged", counts.commits), "commit acknowledged", "commits acknowledged",
          "writes that returned success to a client"),
        number(given("unknown", counts.unknown), "unknown", "unknown", "operations whose outcome nobody knows"),
        number(counts.failed, "failed", "failed", "operations that failed"),
        el("span", { class: "count" }, el("b", {}, duration(model.end)), " virtual time")),
      reproduce(run) || "", noteOfReading(lines, unread, unknown) || ""),
  );
  document.title = `${badge[1]} · ${run.scenario || "run"} · seed ${run.seed}`;
}

function plainWords(model, torn) {
  const { violation } = model;
  const { end, lines } = model.trace;
  if (violation) {
    const parts = [el("b", { class: "check" }, checkMeaning(violation.check)
      || `The check “${spaced(violation.check)}” failed.`), " ", violation.text];
    if (violation.more) parts.push(` (and ${plural(violation.more, "more violation")})`);
    return parts;
  }
  if (torn) return [`The trace ends early: ${plural(lines, "line")}, no verdict.`];
  return [String(end.text || (end.verdict === "violation" ? "A check failed."
    : "Every check held from the beginning to the end."))];
}

function reproduce(run) {
  if (typeof run.command !== "string" && (!run.scenario || run.seed === undefined)) return null;
  const quoted = (text) => (/^[\w./:@%+-]+$/.test(text) ? text : `'${text.replace(/'/g, "'\\''")}'`);
  const command = typeof run.command === "string" && run.command ? run.command
    : `python -m sim run ${quoted(String(run.scenario))} --seed ${run.seed}`;
  const button = el("button", {
    type: "button", title: "Copy the command",
    onclick: () => {
      // A page opened from a file has no clipboard in every browser; selecting always works.
      getSelection().selectAllChildren(code);
      if (navigator.clipboard) navigator.clipboard.writeText(command).catch(() => {});
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1200);
    },
  }, "Copy");
  const code = el("code", { title: run.engine ? `engine ${run.engine}` : null }, command);
  return el("div", { class: "command" }, code, button);
}

function noteOfReading(lines, unread, unknown) {
  const kinds = Object.entries(unknown);
  const parts = [];
  if (unread) parts.push(`${plural(unread, "line")} could not be read`);
  if (kinds.length) {
    const sum = kinds.reduce((total, [, count]) => total + count, 0);
    parts.push(`${plural(sum, "line")} of other kinds left out (${kinds.map(([kind]) => kind)
      .slice(0, 4).join(", ")})`);
  }
  return parts.length ? el("div", { class: "note" }, `Of ${grouped(lines)}: ${parts.join("; ")}.`) : null;
}

// ------------------------------------------------------------------ bar

const LEGEND_MAX = 6;

class Bar {
  constructor(model, view, actions) {
    Object.assign(this, { model, view });
    this.groups = new Map();
    this.note = el("span", { class: "hidden-note" });
    const chips = model.messages.map((group) => this.group(group));
    const more = model.branches.size - LEGEND_MAX;
    const legend = [...model.branches].slice(0, LEGEND_MAX).map(([branch, at]) => el("span", { class: "key" },
      el("i", { style: `background:var(--branch${at})` }), branch));
    const button = (text, title, act) => el("button", { type: "button", title, onclick: act }, text);
    byId("bar").append(
      el("span", { class: "label" }, "messages"), ...chips,
      chips.length ? "" : el("span", { class: "label" }, "none in this trace"), this.note,
      el("span", { class: "space" }),
      legend.length ? el("span", {
        class: "legend", title: "branches of history: servers with the same colour have the same",
      }, el("span", { class: "label" }, "branches"), ...legend,
      more > 0 ? el("span", { class: "label" }, `+${more}, colours again`) : "") : "",
      button("−", "Zoom out (-)", actions.out), button("+", "Zoom in (+)", actions.in),
      button("whole run", "The whole run (Home)", actions.all),
      model.violation ? button("violation", "The violation and its causes (v)", actions.violation) : "",
      button("?", "Help (?)", actions.help),
    );
  }

  group(group) {
    const box = el("input", {
      type: "checkbox",
      onchange: () => {
        this.view.showGroup(group.name, box.checked);
        this.view.changed();
      },
    });
    const kinds = group.kinds.map((kind) => {
      const one = el("input", {
        type: "checkbox",
        onchange: () => {
          if (one.checked) this.view.kinds.add(kind.name);
          else this.view.kinds.delete(kind.name);
          this.view.changed();
        },
      });
      return { name: kind.name, box: one, row: el("label", {}, one, ` ${kind.name} `,
        el("small", {}, grouped(kind.total))) };
    });
    this.groups.set(group.name, { box, kinds });
    return el("span", { class: "group" },
      el("label", { class: "chip" }, box, el("i", { style: `background:var(--msg-${group.name})` }),
        ` ${group.name} `, el("small", {}, grouped(group.total))),
      el("details", { class: "kinds" }, el("summary", { title: `Kinds of ${group.name}` }, "▾"),
        el("div", {}, ...kinds.map((kind) => kind.row))));
  }

  update(shown, hidden, kinds) {
    for (const { box, kinds: members } of this.groups.values()) {
      const on = members.filter((kind) => this.view.kinds.has(kind.name)).length;
      box.checked = on === members.length;
      box.indeterminate = on > 0 && on < members.length;
      for (const kind of members) kind.box.checked = this.view.kinds.has(kind.name);
    }
    this.note.title = hidden ? `too many here: ${kinds.join(", ")}` : "";
    const text = hidden ? `${grouped(shown)} drawn, ${grouped(hidden)} hidden: zoom in`
      : shown ? `${grouped(shown)} drawn` : "";
    if (this.note.textContent !== text) this.note.textContent = text;
    this.note.classList.toggle("warn", hidden > 0);
  }
}

// ------------------------------------------------------------------ what led to this

class Causes {
  constructor(model, go) {
    const { violation } = model;
    const box = byId("causes");
    this.items = [];
    if (!violation) return;
    box.hidden = false;
    const item = (ref, number, t) => {
      const { node, text: said } = model.words.describe(ref);
      // What the log calls it is a word of the design; the sentence alone may not have it.
      const name = ref.kind === "log" ? spaced(model.reader.text("log", "name", ref.row)) : "";
      const text = name && !said.includes(name) ? `${name}: ${said}` : said;
      const row = el("li", { tabindex: 0, onclick: () => go(ref),
        onkeydown: (event) => { if (event.key === "Enter") go(ref); } },
      el("span", { class: "number" }, number), el("time", {}, seconds(t)),
      el("span", { class: "who" }, node), el("span", { class: "said" }, text));
      this.items.push({ ref, row });
      return row;
    };
    const list = violation.causes.map((cause, at) => item(cause, String(at + 1), cause.t));
    list.push(item({ kind: "violation", row: 0 }, "✕", violation.t));
    box.append(el("h2", {}, "What led to this",
      el("small", {}, violation.causes.length ? "click, or [ and ], to go there"
        : "the checker named no causes")),
    el("ol", {}, ...list));
  }

  update(selected) {
    for (const { ref, row } of this.items) {
      const on = selected && selected.kind === ref.kind && selected.row === ref.row;
      if (on && !row.classList.contains("on")) row.scrollIntoView({ block: "nearest" });
      row.classList.toggle("on", Boolean(on));
    }
  }
}

// ------------------------------------------------------------------ state at the cursor

const STATE_NAMES = 84; // px
const STATE_COLUMN = 70;

class StateTable {
  constructor(model) {
    this.model = model;
    this.title = el("h2", {});
    this.body = el("tbody");
    const wanted = STATE_NAMES + model.nodes.length * STATE_COLUMN;
    byId("side").style.setProperty("--wanted", `${wanted + 24}px`);
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
    if (key === "role" && state.leads) return "strong";
    if (key === "agent" && state.agent !== "up") return "trouble";
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
    const [node, pg, lease, hold] = ["node", "pg", "lease", "hold"].map(row);
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
    const left = (kind, at) => (at === NONE ? 0 : Math.max(0, trace.tables[kind].until[at] - t));
    if (left("lease", lease) > 0) state.lease = `${duration(left("lease", lease))} left`;
    if (left("hold", hold) > 0) {
      state.hold = `${reader.text("hold", "for", hold)}, ${duration(left("hold", hold))}`;
    }
    if (pg !== NONE) this.server(state, pg);
    return state;
  }

  server(state, pg) {
    const { reader } = this.model;
    const recovery = reader.flag("pg", "recovery", pg);
    const admit = reader.flag("pg", "admit", pg);
    const frozen = reader.flag("pg", "frozen", pg);
    const process = reader.text("pg", "process", pg);
    state.process = frozen ? `${process}, frozen` : process;
    const primary = admit === false ? "primary, closed" : "primary";
    state.serves = recovery === null ? "" : recovery ? "standby" : primary;
    state.writes = process === "running" && recovery === false && !frozen;
    const tli = reader.number("pg", "tli", pg);
    const branch = reader.text("pg", "branch", pg) || null;
    state.branch = [tli, branch].filter(Boolean).join(" · ");
    state.colour = branch ? this.model.branchColour(branch) : "";
    const lsn = reader.number("pg", "lsn", pg);
    state.lsn = lsn === null ? "" : lsnText(lsn);
    state.upstream = reader.text("pg", "upstream", pg);
    const sync = reader.list("pg", "sync", pg);
    const k = reader.number("pg", "k", pg);
    if (sync.length) state.sync = `${k === null ? "" : `${k} of `}${sync.join(", ")}`;
    const data = reader.text("pg", "data", pg);
    if (data && data !== "present") state.data = data;
  }
}

const STATE_ROWS = [
  ["agent", "agent", "the metako process"],
  ["role", "role · term", "in the agreement; and the term that it has promised itself to, if higher"],
  ["leader", "follows", "whom the agent takes for the leader"],
  ["lease", "lease", "the right to be writable: how long it still lasts"],
  ["hold", "holds for", "votes for nobody else until then"],
  ["guard", "guard", "the process that fences PostgreSQL"],
  ["process", "postgres", "the server's processes"],
  ["serves", "serves as", "primary: not in recovery; closed: clients are not admitted"],
  ["branch", "tli · branch", "PostgreSQL's timeline, and the true history, which no node can see"],
  ["lsn", "LSN", "end of its WAL, to 100 ms"],
  ["upstream", "streams from", "the server whose WAL it receives"],
  ["sync", "waits for", "a commit returns after so many of these have it"],
  ["data", "data", "if the data directory is not present"],
];
