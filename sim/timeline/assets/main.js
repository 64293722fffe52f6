"use strict";
// Start: read the data, put the parts together, draw when something has changed.

class App {
  constructor() {
    const raw = JSON.parse(byId("data").textContent);
    const trace = decodeTrace(raw);
    this.model = new Model(trace, new Reader(trace));
    const parts = this.address();
    this.theme = new Theme(["light", "dark"].includes(parts.get("theme")) ? parts.get("theme") : "");
    this.pending = false;
    this.range = null; // pixels that a drag with Shift has marked
    this.drawMs = 0; // of the last drawing
    this.written = ""; // the address that we set ourselves
    this.view = new View(this.model, () => this.redraw());
    const go = (ref) => this.view.go(ref);
    drawHeader(this.model);
    this.bar = new Bar(this.model, this.view, {
      in: () => this.view.zoom(0.5), out: () => this.view.zoom(2), all: () => this.view.toAll(),
      violation: () => this.view.toViolation(), help: () => this.help(),
    });
    this.causes = new Causes(this.model, go);
    this.table = new StateTable(this.model);
    this.details = new Details(this.model, this.view);
    this.events = new EventList(this.model, this.view, go, (found, event) => this.tip(found, event));
    this.minimap = new Minimap(byId("mini"), this.model, this.view, this.theme);
    this.finder = null;
    this.measure();
    if (parts.size) this.view.restore(parts);
    this.listen();
    this.draw();
    this.firstDrawn();
  }

  address() {
    return new URLSearchParams(location.hash.slice(1));
  }

  listen() {
    wireLanes(this);
    wireStrips(this);
    wireKeys(this);
    new ResizeObserver(() => {
      this.measure();
      this.redraw();
    }).observe(byId("stage"));
    this.theme.media.addEventListener("change", () => {
      this.theme.apply();
      this.redraw();
    });
    addEventListener("hashchange", () => {
      if (location.hash !== this.written) this.view.restore(this.address());
    });
    document.addEventListener("click", (event) => {
      // A list of kinds closes when something else is clicked.
      for (const open of document.querySelectorAll("details.kinds[open]")) {
        if (!open.contains(event.target)) open.open = false;
      }
    });
  }

  measure() {
    const stage = byId("stage");
    this.model.faultRows = Math.min(stage.clientHeight > 800 ? 7 : 4, this.model.faultsAtOnce);
    this.width = Math.max(GUTTER + 200, stage.clientWidth);
    const rest = stage.clientHeight - FaultPainter.height(this.model) - miniHeight(this.model);
    this.layout = layOut(this.model, rest);
    const bar = this.layout.height > rest ? 12 : 0; // of scrolling
    this.view.width = this.width - GUTTER - bar - 4;
  }

  redraw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    const begun = performance.now();
    const { model, view, theme, layout } = this;
    const parts = [model, view, theme, layout];
    const lanes = prepared(byId("lanes"), this.width, layout.height);
    const faults = new FaultPainter(lanes, ...parts);
    faults.grid(layout.height);
    faults.shades();
    new LanePainter(lanes, ...parts).all();
    new ClientPainter(lanes, ...parts).all();
    faults.separations();
    const arrows = new ArrowPainter(lanes, ...parts);
    const markers = new Markers(lanes, ...parts);
    lanes.save();
    lanes.beginPath();
    lanes.rect(GUTTER, 0, view.width, layout.height);
    lanes.clip();
    arrows.messages([...faults.chips, ...faults.dashes]);
    faults.words();
    arrows.lines(layout.height);
    markers.selection();
    markers.causes();
    lanes.restore();
    if (this.range) {
      lanes.fillStyle = theme.colour("veil");
      lanes.fillRect(Math.min(...this.range), 0, Math.abs(this.range[1] - this.range[0]), layout.height);
    }
    new LanePainter(lanes, ...parts).names();
    this.drawTop(parts, arrows);
    this.minimap.draw(this.width);
    this.finder = new Finder(model, view, layout, { arrows, markers, strip: this.strip });
    this.bar.update(arrows.shown, arrows.hidden, arrows.hiddenKinds);
    this.causes.update(view.selected);
    this.table.update(view.cursor);
    this.details.update();
    this.events.update();
    this.writeAddress();
    this.drawMs = performance.now() - begun;
  }

  drawTop(parts, arrows) {
    const height = FaultPainter.height(this.model);
    const ctx = prepared(byId("top"), this.width, height);
    const strip = new FaultPainter(ctx, ...parts);
    strip.grid(height);
    strip.strip();
    arrows.ctx = ctx;
    arrows.lines(height);
    strip.axis(arrows.heads(1, TOP.axis - 8));
    this.strip = strip;
  }

  writeAddress() {
    // Browsers allow few changes of the address a second; the last one of a movement counts.
    clearTimeout(this.addressTimer);
    this.addressTimer = setTimeout(() => {
      const parts = this.view.address();
      if (this.theme.forced) parts.set("theme", this.theme.forced);
      this.written = `#${parts}`;
      try { history.replaceState(null, "", this.written); } catch { /* a sandboxed frame has none */ }
    }, 250);
  }

  hover(x, y, event) {
    this.tip(this.finder.at(x, y), event);
  }

  tip(found, event) {
    const tip = byId("tip");
    tip.hidden = !found;
    if (!found) return;
    tip.classList.toggle("cause", Boolean(found.number));
    tip.replaceChildren(el("b", {}, found.title), ...found.lines.map((line) => el("div", {}, line)));
    const { innerWidth: w, innerHeight: h } = window;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, w - tip.offsetWidth - 8))}px`;
    const below = event.clientY + 18;
    tip.style.top = `${below + tip.offsetHeight > h - 4 ? event.clientY - tip.offsetHeight - 10 : below}px`;
  }

  // Go to the next or previous cause of the violation, the violation itself being the last.
  cause(direction) {
    const { violation } = this.model;
    if (!violation) return;
    const list = [...violation.causes, { kind: "violation", row: 0 }];
    const { selected } = this.view;
    const at = selected ? list.findIndex((c) => c.kind === selected.kind && c.row === selected.row) : -1;
    const next = at < 0 ? (direction > 0 ? 0 : list.length - 1)
      : Math.max(0, Math.min(list.length - 1, at + direction));
    this.view.go(list[next]);
  }

  help() {
    const box = byId("help");
    if (!box.childElementCount) box.append(...helpContents(() => box.close()));
    if (box.open) box.close();
    else box.showModal();
  }

  firstDrawn() {
    // After the frame that holds the first drawing, so that a script can wait for it and ask how
    // long it took.
    requestAnimationFrame(() => setTimeout(() => {
      document.documentElement.dataset.ready = performance.now().toFixed(0);
    }));
  }
}

const app = new App();
