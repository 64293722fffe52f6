"use strict";
// The list of events around the cursor: log lines, faults, marks, steps, changes of state. Only
// the rows that can be seen exist as elements.

const EVENT_ROW = 20; // px, as in page.css
const SPARE = 8; // rows above and below the visible ones
const LISTED = ["log", "fault", "fault_end", "mark", "phase", "violation", "step", "node", "pg", "op"];

class EventList {
  constructor(model, view, go, tip) {
    Object.assign(this, { model, view, go, tip });
    this.all = this.collect();
    this.texts = null; // lower case, once a filter asks for them
    this.filter = el("input", {
      type: "search", placeholder: "filter: words, node…  ( / )", "aria-label": "Filter events",
      oninput: () => {
        view.filter = this.filter.value;
        view.changed();
      },
    });
    this.level = el("select", {
      "aria-label": "Severity",
      onchange: () => {
        view.level = Number(this.level.value);
        view.changed();
      },
    }, ...[[0, "everything"], [1, "info and up"], [2, "warnings"], [3, "errors"]].map(
      ([value, text]) => el("option", { value }, text)));
    this.title = el("h2", {});
    this.spacer = el("div", { class: "spacer" });
    this.box = el("div", { class: "rows", tabindex: 0, onscroll: () => this.fill() }, this.spacer);
    byId("events").append(this.title, el("div", { class: "filters" }, this.filter, this.level),
      this.box);
    this.key = "";
    this.rows = [];
    this.followed = null;
  }

  collect() {
    const { trace, reader } = this.model;
    const list = [];
    const { pg } = trace.tables;
    for (const kind of LISTED) {
      const table = trace.tables[kind];
      for (let row = 0; row < table.size; row++) {
        let level = 1;
        if (kind === "log") {
          const said = LEVELS[(reader.text("log", "level", row) || "INFO").toUpperCase()];
          level = said === undefined ? 1 : said;
        } else if (kind === "op") {
          if (reader.text("op", "result", row) === "ok") continue;
          level = 0;
        } else if (kind === "node") level = 0;
        else if (kind === "pg") {
          // Positions are sampled all the time; a row that says nothing else is no event.
          if (this.onlyMoved(pg, row)) continue;
          level = 0;
        } else if (kind === "violation") level = 4;
        else if (kind === "step" && table.ok[row] === 0) level = 2;
        list.push({ t: table.t[row], i: table.i[row], kind, row, level });
      }
    }
    return list.sort((a, b) => a.t - b.t || a.i - b.i);
  }

  onlyMoved(pg, row) {
    const before = this.model.reader.previous("pg", row);
    if (before === NONE) return false;
    return pg.names.every((name) => name === "i" || name === "t" || name === "lsn"
      || Object.is(pg[name][row], pg[name][before]));
  }

  said(at) {
    const { node, level, text } = this.model.words.describe(this.all[at]);
    return { node, level, text };
  }

  // Apply filter and severity, if they have changed.
  choose() {
    const key = `${this.view.level}\n${this.view.filter}`;
    if (key === this.key) return false;
    this.key = key;
    const words = this.view.filter.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && !this.texts) {
      this.texts = this.all.map((event, at) => {
        const { node, level, text } = this.said(at);
        const name = event.kind === "log" ? this.model.reader.text("log", "name", event.row) : "";
        return `${node} ${level} ${text} ${name} ${event.kind}`.toLowerCase();
      });
    }
    this.rows = [];
    this.all.forEach((event, at) => {
      if (event.level < this.view.level && event.kind !== "fault" && event.kind !== "fault_end") return;
      if (words.every((word) => this.texts[at].includes(word))) this.rows.push(at);
    });
    this.times = Float64Array.from(this.rows, (at) => this.all[at].t);
    this.spacer.style.height = `${this.rows.length * EVENT_ROW}px`;
    return true;
  }

  update() {
    if (this.filter.value !== this.view.filter) this.filter.value = this.view.filter;
    this.level.value = String(Math.min(3, this.view.level));
    const chosen = this.choose();
    const { selected, cursor } = this.view;
    if (chosen || this.followed !== cursor) {
      // Of several at one time the selected one is in the middle, else the last.
      let at = upperBound(this.times, cursor) - 1;
      for (let back = at; selected && back >= 0 && this.times[back] === cursor; back--) {
        const event = this.all[this.rows[back]];
        if (event.kind === selected.kind && event.row === selected.row) at = back;
      }
      this.followed = cursor;
      this.box.scrollTop = Math.max(0, (at + 0.5) * EVENT_ROW - this.box.clientHeight / 2);
    }
    if (chosen) {
      this.title.replaceChildren("Events", el("small", {}, `${grouped(this.rows.length)} of ${
        grouped(this.all.length)}`));
    }
    this.fill();
  }

  fill() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / EVENT_ROW) - SPARE);
    const last = Math.min(this.rows.length,
      Math.ceil((this.box.scrollTop + this.box.clientHeight) / EVENT_ROW) + SPARE);
    const { selected, cursor } = this.view;
    // Panning changes nothing here, and building rows is dear.
    const drawn = [this.key, first, last, cursor, selected && `${selected.kind}/${selected.row}`].join();
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.tip(null);
    const rows = [];
    for (let at = first; at < last; at++) {
      const event = this.all[this.rows[at]];
      const { node, level, text } = this.said(this.rows[at]);
      const on = selected && selected.kind === event.kind && selected.row === event.row;
      rows.push(el("div", {
        class: `event ${level.toLowerCase()}${on ? " on" : ""}${event.t > cursor ? " later" : ""}${
          at + 1 < this.rows.length && event.t <= cursor && this.times[at + 1] > cursor ? " now" : ""}`,
        style: `top:${at * EVENT_ROW}px`, onclick: () => this.go(event),
        onpointerenter: (over) => {
          const said = over.currentTarget.lastChild;
          if (said.scrollWidth <= said.clientWidth) return; // it is all there
          this.tip({ title: text, lines: [`${node} at ${seconds(event.t, 6)}`.trim()] }, over);
        },
        onpointerleave: () => this.tip(null),
      }, el("time", {}, (event.t / 1e9).toFixed(3)), el("span", { class: "who" }, node),
      el("span", { class: "level", title: level }, SIGNS[level] || ""), el("span", { class: "said" }, text)));
    }
    this.spacer.replaceChildren(...rows);
  }

  // The next or previous event of the list from the cursor on.
  step(direction) {
    const { selected, cursor } = this.view;
    let at = upperBound(this.times, cursor) - 1;
    const mine = selected && this.rows.findIndex((each) => {
      const event = this.all[each];
      return event.kind === selected.kind && event.row === selected.row;
    });
    if (mine !== null && mine >= 0 && this.model.timeOf(selected) === cursor) at = mine + direction;
    else if (direction > 0) at += 1;
    else if (this.times[at] === cursor) at -= 1;
    const event = this.all[this.rows[at]];
    if (event) this.go(event);
  }
}

const SIGNS = { WARNING: "▲", ERROR: "▲", CRITICAL: "▲", FAULT: "⚡", MARK: "⚑", VIOLATION: "✕" };
