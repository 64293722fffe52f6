"use strict";
// The words around the drawing: header, bar, what led to a violation.

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
    const item = (ref, number, t, note = "") => {
      const { node, text: said } = model.words.describe(ref);
      // What the log calls it is a word of the design; the sentence alone may not have it.
      const name = ref.kind === "log" ? spaced(model.reader.text("log", "name", ref.row)) : "";
      const own = name && !said.includes(name) ? `${name}: ${said}` : said;
      const text = note || own;
      const row = el("li", { tabindex: 0, title: note ? own : null, onclick: () => go(ref),
        onkeydown: (event) => { if (event.key === "Enter") go(ref); } },
      el("span", { class: "number" }, number), el("time", {}, seconds(t)),
      el("span", { class: "who" }, node), el("span", { class: "said" }, text));
      this.items.push({ ref, row });
      return row;
    };
    const list = violation.causes.map((cause) => item(cause, String(cause.number), cause.t, cause.note));
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
