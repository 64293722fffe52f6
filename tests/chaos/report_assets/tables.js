"use strict";
// The words around the drawing: verdict, violations, state at the cursor, outages, after the run.

const AROUND = 1; // s: events this near to the cursor are listed
const LISTED_MAX = 60;
// The steps of a failover in their usual order; the number is that of the colour.
const STEPS = {
  __proto__: null,
  member_suspect: ["suspected", 0], suspect: ["suspected", 0], hold_expired: ["hold expired", 1],
  release_heard: ["release heard", 1], candidacy_started: ["candidacy", 2],
  election_won: ["elected", 3], promoted: ["promoted", 4], primary_active: ["active", 5],
  first_write: ["first write", 6],
};
const COLUMNS = ["suspected", "hold expired", "candidacy", "elected", "promoted", "active", "first write"];

class Tables {
  // `go(t, span)` shows a moment.
  constructor(data, go) {
    Object.assign(this, { data, go });
  }

  all() {
    this.head();
    this.violations();
    this.outages();
    this.after();
  }

  link(t, span, text = moment(t)) {
    if (t === null) return el("span", {}, "–");
    const click = (event) => { event.preventDefault(); this.go(t, span); };
    return el("a", { href: `#t=${trimmed(t)}&zoom=${trimmed(span)}`, onclick: click }, text);
  }

  head() {
    const { words, run } = this.data;
    document.title = `${words.title} – ${run.scenario || "run"} ${run.id}`.trim();
    byId("head").append(
      el("div", { class: "what" },
        el("h1", { class: words.class }, words.title),
        el("span", { class: "run" }, [run.id && `run ${run.id}`, run.wall].filter(Boolean).join(" · ")),
        ...words.sentences.map((text) => el("p", {}, text)), ...this.notes()),
      el("div", { class: "facts" }, ...words.facts.map(([label, value, kind]) => el(
        "div", { class: `fact ${kind}` }, el("b", {}, value), el("span", {}, label)))));
  }

  // What is missing in the page or in the history.
  notes() {
    const { left_out: leftOut, unread, unknown_kinds: kinds, verdict } = this.data;
    const said = Object.entries(leftOut).map(([what, count]) => `${grouped(count)} ${what}`);
    const notes = [];
    if (said.length) notes.push(`Too many to show here: ${said.join(", ")}; they are in the history.`);
    if (unread) notes.push(`${grouped(unread)} lines of the history could not be read.`);
    const foreign = Object.keys(kinds);
    if (foreign.length) notes.push(`Kinds of lines that this page does not know: ${foreign.join(", ")}.`);
    const stats = verdict ? Object.entries(verdict.stats) : [];
    if (stats.length) {
      notes.push(`The checker: ${stats.map(([key, value]) => `${spaced(key)} ${
        typeof value === "number" ? grouped(value) : value}`).join(", ")}.`);
    }
    return notes.map((text) => el("p", { class: "note" }, text));
  }

  violations() {
    const { verdict } = this.data;
    const section = byId("violations");
    if (!verdict || !verdict.violations.length) return;
    section.hidden = false;
    const list = el("div", { class: "list" });
    section.append(el("h2", {}, "Violations"), list);
    for (const { check, text, at, evidence } of verdict.violations) {
      list.append(el("div", { class: "violation" },
        el("b", {}, spaced(check)), `${text} `, at === null ? null : this.link(at, 6),
        evidence.length ? this.evidence(evidence) : null));
    }
  }

  evidence(evidence) {
    const cell = (text) => el("td", {}, text);
    return table(["client", "operation", "values", "outcome", "begin", "end"], evidence.map((op) => [
      cell(op.client), cell(op.kind), el("td", { class: "wide" }, op.values), cell(op.outcome),
      el("td", {}, this.link(op.begin, 4, op.begin === null ? "" : moment(op.begin, 3))),
      cell(op.end === null ? "" : moment(op.end, 3))]));
  }

  outages() {
    const { data } = this;
    const section = byId("outages");
    const measured = data.proxied ? "through a proxy " : "";
    section.append(el("h2", {}, "Outages", el("small", {}, `more than 0.5 s without a write ${
      measured}acknowledged; each column is the time since the step before`)));
    if (!data.outages.length) {
      section.append(el("p", { class: "note" }, "None."));
      return;
    }
    const rows = data.outages.map((gap) => this.outage(gap));
    const head = COLUMNS.map((name, at) => el("span", {}, swatch(at), name));
    section.append(table(["begin", "length", "faults", ...head, "where the time went", "failed", "unknown"],
      rows, [1, ...COLUMNS.map((_, at) => at + 3), 11, 12]));
  }

  outage(gap) {
    const number = (text) => el("td", { class: "n" }, text);
    const cells = new Map();
    for (const step of gap.steps) {
      const [name] = STEPS[step.name] || [spaced(step.name)];
      const who = step.node ? `${step.node}'s log` : "client";
      cells.set(name, el("td", { class: "n", title: `${spaced(step.name)} at ${moment(step.t, 3)}, ${who}` },
        grouped(step.ms), el("small", {}, " ms"), step.node ? el("small", {}, ` ${step.node}`) : null));
    }
    const faults = gap.faults.map((at) => this.data.faults[at].text).join("; ");
    const span = Math.max(1, (gap.ms / 1000) * 2.5);
    return [
      el("td", {}, this.link((gap.begin + gap.end) / 2, span, moment(gap.begin))),
      number(el("b", {}, `${milliseconds(gap.ms)}${gap.open ? " …" : ""}`)),
      el("td", { class: "wide" }, faults || "no fault"),
      ...COLUMNS.map((name) => cells.get(name) || number("–")),
      el("td", {}, parts(gap)),
      number(grouped(gap.failed)), number(grouped(gap.unknown)),
    ];
  }

  after() {
    const { after, skipped } = this.data;
    const section = byId("after");
    if (after.nodes.length) {
      section.append(el("h2", {}, "After the run"), table(
        ["node", "rows", "hash of all rows", "timeline", "streams", "checksums", "recovered after"],
        after.nodes.map((node) => [node.name, grouped(node.rows ?? "–"), node.hash, node.timeline ?? "–",
          node.streaming ? "yes" : "no", node.checksums,
          node.recovered_s === null || node.recovered_s === undefined ? "–" : took(node.recovered_s),
        ].map((text, at) => el("td", { class: at === 5 && /^failed/.test(text) ? "alarm" : "" }, String(text))))));
    }
    if (after.looked) {
      section.append(el("p", { class: after.left.length ? "" : "note" }, after.left.length
        ? `Left behind: ${after.left.join(", ")}.` : "Nothing was left behind: no process, namespace or file."));
    }
    for (const [t, text, why] of skipped) {
      section.append(el("p", { class: "note" }, "Skipped at ", this.link(t, 10), `: ${text}${why ? ` – ${why}` : ""}`));
    }
  }

  // Everything that is known of the moment under the cursor.
  state(t) {
    const { data } = this;
    const section = byId("state");
    section.hidden = t === null;
    if (t === null) return;
    const faults = data.faults.filter((each) => t >= each.begin
      && t <= (each.end === null ? each.begin + AROUND : each.end));
    const phase = latest(data.phases, t);
    const rows = data.nodes.map((node) => {
      const [, role, state, term, timeline, leader] = latest(node.spans, t) || [0, "unknown", "", null, null, ""];
      const writable = node.writable.some(([b, e]) => t >= b && t <= e);
      return [node.name, role, state, term ?? "–", timeline ?? "–", leader || "–", writable ? "yes" : "no"]
        .map((text) => el("td", {}, String(text)));
    });
    section.replaceChildren(
      el("h2", {}, `At ${moment(t, 3)}`, el("small", {}, [phase && `phase ${phase[1]}`,
        faults.length ? `faults: ${faults.map((each) => each.text).join("; ")}` : "no fault",
        "Esc closes"].filter(Boolean).join(" · "))),
      table(["node", "role", "state", "term", "timeline", "leader", "out of recovery"], rows),
      el("ul", { class: "events" }, ...this.around(t)));
  }

  around(t) {
    const { data } = this;
    const found = [];
    for (const node of data.nodes) {
      for (const [at, name, text] of node.events) {
        if (Math.abs(at - t) <= AROUND) found.push([at, `${node.name} ${spaced(name)}${text ? `: ${text}` : ""}`]);
      }
    }
    for (const op of data.ops) {
      if (op[2] >= t - AROUND && op[1] <= t + AROUND) {
        found.push([op[2], `${data.clients[op[0]].name} ${opLines(op).join(" – ")}`]);
      }
    }
    found.sort((a, b) => Math.abs(a[0] - t) - Math.abs(b[0] - t));
    const more = found.length - LISTED_MAX;
    const near = found.slice(0, LISTED_MAX).sort((a, b) => a[0] - b[0]);
    const items = near.map(([at, text]) => el("li", {}, el("time", {}, moment(at, 3)), text));
    return more > 0 ? [...items, el("li", {}, `and ${grouped(more)} more`)] : items;
  }
}

function table(head, rows, numbers = []) {
  return el("div", { class: "table" }, el("table", {},
    el("thead", {}, el("tr", {}, ...head.map((name, at) => el("th", { class: numbers.includes(at) ? "n" : "" }, name)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells)))));
}

function swatch(step) {
  return el("i", { class: "swatch", style: `background:var(--step${step})` });
}

// Each step as a part of a bar, in the colour of its column.
function parts(gap) {
  return el("div", { class: "parts" }, ...gap.steps.map((step) => {
    const [name, colour] = STEPS[step.name] || [spaced(step.name), 0];
    return el("i", { style: `flex:${Math.max(1, step.ms)} 0 0;background:var(--step${colour})`,
      title: `${name}: ${milliseconds(step.ms)}` });
  }));
}
