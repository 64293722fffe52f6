"use strict";
// Start; draw when something changed; mouse and keys.

const DRAG_MIN = 4; // pixels
const MINI_H = 34;
const HELP = [
  ["drag", "zoom into the range; with Shift: move"], ["wheel", "zoom at the pointer, once the drawing was clicked, or with Ctrl"],
  ["click", "everything that is known of that moment, below"], ["double click", "the whole run"],
  ["← →", "move; with Shift: by a screen"], ["+ −", "zoom"], ["0 Home", "the whole run"],
  ["n p", "next, previous outage"], ["v", "next violation"], ["d", "dark or light"], ["Esc", "close"], ["?", "this help"],
];
const HELP_SIGNS = [
  ["red bands", "outages: no write was acknowledged for more than 0.5 s"],
  ["faults", "one below another while they overlap; one without a length took no time"],
  ["out of recovery", "servers that answered a direct question with “not in recovery”, one line each; a red frame: more than one at once"],
  ["nodes", "full: primary, pale: standby, red hatch: down, grey hatch: unknown; a black notch: the term changed"],
  ["signs", "▲ elected, promoted, active · ▼ fenced, stepped down, crashed · ◆ rewind, clone, rejoin · flags: suspicion, hold expired, candidacy · ticks: everything else"],
  ["clients", "red: failed, orange: nobody knows, ring: slow; the line before the dot is how long it took"],
  ["times", "seconds since the start of the run, as in history.jsonl"],
];

class Page {
  constructor(data) {
    this.data = data;
    this.theme = new Theme(new URLSearchParams(location.hash.slice(1)).get("theme") || "");
    this.layout = new Layout(data);
    this.dirty = false;
    this.view = new View(data, () => this.draw());
    this.tables = new Tables(data, (t, span) => this.go(t, span));
    this.pointed = new Pointed(data, this.view, this.layout);
    this.tables.all();
    this.bar();
    this.help();
    this.listen();
    this.restore();
    this.size();
  }

  size() {
    const padding = 32;
    this.view.width = Math.max(200, document.documentElement.clientWidth - padding - GUTTER - RIGHT);
    this.draw();
  }

  draw() {
    if (this.dirty || !this.view) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      this.paint();
    });
  }

  paint() {
    const { data, view, theme, layout } = this;
    const width = GUTTER + view.width + RIGHT;
    const ctx = prepared(byId("lanes"), width, layout.height);
    const charts = new ChartPainter(ctx, data, view, theme, layout);
    charts.labels();
    charts.axis();
    charts.inside(() => {
      charts.shades();
      charts.faults();
      charts.writes();
      charts.latency();
      new LanePainter(ctx, data, view, theme, layout).all();
    });
    charts.numbers();
    this.mini(width);
    this.over();
    this.address();
    if (this.shown !== view.cursor) this.tables.state(this.shown = view.cursor);
  }

  // The lines of cursor and pointer, on a canvas of their own: they move often.
  over() {
    const { view, layout, theme } = this;
    const ctx = prepared(byId("over"), GUTTER + view.width + RIGHT, layout.height);
    const line = (t, colour) => {
      const x = view.x(t);
      if (x < GUTTER || x > GUTTER + view.width) return;
      ctx.fillStyle = theme.colour(colour);
      ctx.fillRect(Math.round(x), 18, 1, layout.height);
    };
    if (view.hover && view.hover.x >= GUTTER) line(view.hover.t, "hover");
    if (view.cursor !== null) line(view.cursor, "select");
    if (view.range) {
      const [from, to] = view.range.map((t) => view.x(t));
      ctx.fillStyle = theme.colour("veil");
      ctx.fillRect(Math.min(from, to), 18, Math.abs(to - from), layout.height);
    }
  }

  // The whole run in small, with what is seen of it.
  mini(width) {
    const { data, view, theme } = this;
    const ctx = prepared(byId("mini"), width, MINI_H);
    const level = data.levels.find((each) => each.writes.length <= view.width * 1.5) || data.levels.at(-1);
    const x = (t) => GUTTER + ((t - data.begin) / view.run) * view.width;
    const most = level.writes.reduce((a, b) => Math.max(a, b), 1);
    ctx.fillStyle = theme.colour("panel");
    ctx.fillRect(GUTTER, 0, view.width, MINI_H);
    ctx.fillStyle = theme.colour("writes-fill");
    level.writes.forEach((count, at) => {
      const h = (count / most) * (MINI_H - 4);
      const from = x(level.begin + at * level.width);
      ctx.fillRect(from, MINI_H - h, x(level.begin + (at + 1) * level.width) - from, h);
    });
    ctx.fillStyle = theme.colour("gap-edge");
    for (const gap of data.outages) ctx.fillRect(x(gap.begin), 0, Math.max(1.5, x(gap.end) - x(gap.begin)), MINI_H);
    ctx.strokeStyle = theme.colour("select");
    ctx.lineWidth = 2;
    const from = Math.max(GUTTER + 1, x(view.b));
    ctx.strokeRect(from, 1, Math.max(3, Math.min(GUTTER + view.width - 1, x(view.e)) - from), MINI_H - 2);
    font(ctx, 11);
    ctx.fillStyle = theme.colour("dim");
    ctx.fillText("whole run", 0, MINI_H / 2);
  }

  bar() {
    const key = (colour, text, shape = "") => el("span", { class: "key" },
      el("i", { class: shape, style: `background:var(--${colour})` }), text);
    byId("bar").append(
      key("writes-fill", this.data.proxied ? "writes acknowledged through proxies" : "writes acknowledged"),
      key("reads", "reads", "line"), key("gap", "outage"),
      key("p50", "p50", "line"), key("p99", "p99", "line"),
      key("failed", "failed", "dot"), key("unknown", "unknown", "dot"),
      el("span", { class: "space" }),
      el("span", { class: "note" }, "drag to zoom, click for details"),
      el("button", { type: "button", onclick: () => this.view.all() }, "Whole run"),
      el("button", { type: "button", onclick: () => this.flip() }, "Dark / light"),
      el("button", { type: "button", onclick: () => byId("help").showModal() }, "Help (?)"));
  }

  help() {
    const list = (pairs, tag) => el("dl", {}, ...pairs.flatMap(([term, text]) => [
      el("dt", {}, el(tag, {}, term)), el("dd", {}, text)]));
    byId("help").append(
      el("button", { type: "button", class: "close", onclick: () => byId("help").close() }, "Close"),
      el("h2", {}, "How to move"), list(HELP, "kbd"), el("h2", {}, "What is drawn"), list(HELP_SIGNS, "b"));
  }

  flip() {
    this.theme.forced = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    this.theme.apply();
    this.draw();
  }

  go(t, span) {
    this.view.go(t, span);
    byId("chart").scrollIntoView({ block: "nearest" });
  }

  restore() {
    const parts = new URLSearchParams(location.hash.slice(1));
    if (parts.has("t") || parts.has("zoom")) this.view.restore(parts);
  }

  address() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => {
      const parts = this.view.address();
      if (this.theme.forced) parts.set("theme", this.theme.forced);
      try {
        history.replaceState(null, "", `#${parts}`);
      } catch { /* A browser may forbid it for files; the page works without. */ }
    }, 200);
  }

  listen() {
    const lanes = byId("lanes");
    window.addEventListener("resize", () => this.size());
    window.addEventListener("hashchange", () => this.restore());
    window.addEventListener("keydown", (event) => this.key(event));
    this.theme.media.addEventListener("change", () => { this.theme.apply(); this.draw(); });
    lanes.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    lanes.addEventListener("pointerdown", (event) => this.press(event));
    lanes.addEventListener("pointermove", (event) => this.move(event));
    lanes.addEventListener("pointerup", (event) => this.release(event));
    lanes.addEventListener("pointercancel", () => { this.drag = this.view.range = null; this.over(); });
    lanes.addEventListener("pointerleave", () => { this.view.hover = null; this.tip(null); this.over(); });
    lanes.addEventListener("dblclick", () => this.view.all());
    const mini = byId("mini");
    const look = (event) => {
      if (!event.buttons) return;
      const t = this.data.begin + ((event.offsetX - GUTTER) / this.view.width) * this.view.run;
      this.view.show(t - this.view.span / 2, t + this.view.span / 2);
    };
    mini.addEventListener("pointerdown", (event) => { mini.setPointerCapture(event.pointerId); look(event); });
    mini.addEventListener("pointermove", look);
  }

  wheel(event) {
    const armed = document.activeElement === byId("lanes") || event.ctrlKey || event.metaKey;
    // Zooming out of the whole run is left to the page, so that nobody is caught in the drawing.
    if (!armed || (event.deltaY > 0 && this.view.whole && !event.ctrlKey)) return;
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      this.view.pan((event.deltaX || event.deltaY) / this.view.width);
    } else this.view.zoom(1.0015 ** event.deltaY, this.view.t(event.offsetX));
  }

  press(event) {
    if (event.button !== 0 || event.offsetX < GUTTER) return;
    byId("lanes").setPointerCapture(event.pointerId);
    this.drag = { x: event.offsetX, b: this.view.b, e: this.view.e, pans: event.shiftKey };
  }

  move(event) {
    const { view, drag } = this;
    const { offsetX: x, offsetY: y } = event;
    view.hover = { x, y, t: view.t(x) };
    if (drag && Math.abs(x - drag.x) >= DRAG_MIN) drag.moved = true;
    if (drag && drag.moved && drag.pans) {
      const shift = ((drag.x - x) / view.width) * view.span;
      view.show(drag.b + shift, drag.e + shift);
    } else view.range = drag && drag.moved ? [view.t(drag.x), view.t(Math.max(GUTTER, x))] : null;
    this.tip(drag && drag.moved ? (view.range && [took(Math.abs(view.range[1] - view.range[0]))])
      : this.pointed.at(x, y), event);
    this.over();
  }

  release() {
    const { view, drag } = this;
    if (!drag) return;
    this.drag = null;
    const { range } = view;
    view.range = null;
    if (range) view.show(Math.min(...range), Math.max(...range));
    else if (!drag.moved) {
      view.cursor = Math.max(this.data.begin, Math.min(this.data.end, view.t(drag.x)));
      this.draw();
    }
  }

  tip(lines, event) {
    const tip = byId("tip");
    tip.hidden = !lines || !lines.length;
    if (tip.hidden) return;
    tip.replaceChildren(el("b", {}, lines[0]), ...lines.slice(1).map((line) => el("div", {}, line)));
    const { offsetWidth: w, offsetHeight: h } = tip;
    const left = event.clientX + 16 + w > innerWidth ? event.clientX - w - 12 : event.clientX + 16;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, Math.min(innerHeight - h - 4, event.clientY + 14))}px`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const { view } = this;
    const acts = {
      ArrowLeft: () => view.pan(event.shiftKey ? -0.9 : -0.15),
      ArrowRight: () => view.pan(event.shiftKey ? 0.9 : 0.15),
      "+": () => view.zoom(0.6), "=": () => view.zoom(0.6), "-": () => view.zoom(1 / 0.6),
      0: () => view.all(), Home: () => view.all(),
      n: () => this.jump(1), p: () => this.jump(-1), v: () => this.violation(),
      d: () => this.flip(), "?": () => byId("help").showModal(),
      Escape: () => { view.cursor = null; this.draw(); },
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  }

  jump(way) {
    const { outages } = this.data;
    const from = this.view.cursor === null ? (way > 0 ? -Infinity : Infinity) : this.view.cursor;
    const middle = (gap) => (gap.begin + gap.end) / 2;
    const beyond = outages.filter((gap) => (way > 0 ? middle(gap) > from + 1e-3 : middle(gap) < from - 1e-3));
    const gap = way > 0 ? beyond[0] : beyond.at(-1);
    if (gap) this.go(middle(gap), Math.max(1, (gap.ms / 1000) * 2.5));
  }

  violation() {
    const times = (this.data.verdict ? this.data.verdict.violations : []).map((each) => each.at)
      .filter((at) => at !== null).sort((a, b) => a - b);
    const from = this.view.cursor === null ? -Infinity : this.view.cursor;
    const next = times.find((at) => at > from + 1e-3) ?? times[0];
    if (next !== undefined) this.go(next, 6);
  }
}

new Page(JSON.parse(byId("data").textContent));
