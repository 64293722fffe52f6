"use strict";
// Draw the whole run in small: who was a primary where, faults, operations that failed, and the
// part that is seen above. What does not change with the view is drawn once.

const MINI = { top: 4, node: 7, ops: 9, bottom: 4 };

function miniHeight(model) {
  return MINI.top + Math.max(3, Math.min(model.nodes.length, 9)) * MINI.node + MINI.ops + MINI.bottom + 4;
}

class Minimap {
  constructor(canvas, model, view, theme) {
    Object.assign(this, { canvas, model, view, theme });
    this.still = document.createElement("canvas");
    this.stillKey = "";
  }

  x(t) {
    const { begin, end } = this.model;
    return GUTTER + ((t - begin) / (end - begin)) * this.view.width;
  }

  t(x) {
    const { begin, end } = this.model;
    return begin + ((x - GUTTER) / this.view.width) * (end - begin);
  }

  draw(width) {
    const height = miniHeight(this.model);
    const key = `${width}/${devicePixelRatio}/${document.documentElement.dataset.theme}`;
    if (key !== this.stillKey) this.drawStill(width, height);
    this.stillKey = key;
    const { model, view } = this;
    const ctx = prepared(this.canvas, width, height);
    ctx.drawImage(this.still, 0, 0, width, height);
    const colour = (name) => this.theme.colour(name);
    if (model.violation) {
      ctx.fillStyle = colour("bad");
      ctx.fillRect(this.x(model.violation.t) - 1, 0, 2, height);
    }
    const x0 = Math.max(GUTTER, this.x(view.b));
    const x1 = Math.min(GUTTER + view.width, this.x(view.e));
    ctx.fillStyle = colour("veil");
    ctx.fillRect(GUTTER, 0, x0 - GUTTER, height);
    ctx.fillRect(x1, 0, GUTTER + view.width - x1, height);
    ctx.strokeStyle = colour("ink");
    ctx.lineWidth = 1.5;
    ctx.strokeRect(x0, 1, Math.max(3, x1 - x0), height - 2);
    ctx.fillStyle = colour("select");
    ctx.fillRect(this.x(view.cursor) - 0.75, 0, 1.5, height);
  }

  drawStill(width, height) {
    const { model } = this;
    const ctx = prepared(this.still, width, height);
    const colour = (name) => this.theme.colour(name);
    ctx.fillStyle = colour("panel");
    ctx.fillRect(0, 0, width, height);
    ctx.fillStyle = colour("bg");
    ctx.fillRect(GUTTER, 0, this.view.width, height);
    font(ctx, 11);
    ctx.fillStyle = colour("dim");
    ctx.textAlign = "right";
    ctx.fillText("whole run", GUTTER - 8, 11);
    ctx.fillText(duration(model.end - model.begin), GUTTER - 8, 25);
    ctx.textAlign = "left";
    ctx.fillStyle = colour("shade");
    let shaded = 0;
    for (const fault of model.faults) {
      const from = Math.max(shaded, this.x(fault.b));
      shaded = Math.max(shaded, from, Math.max(this.x(fault.b) + 1, this.x(fault.e)));
      ctx.fillRect(from, 0, shaded - from, height);
    }
    model.nodes.slice(0, 9).forEach((name, at) => {
      this.node(ctx, model.lanes.get(name), MINI.top + at * MINI.node);
    });
    this.operations(ctx, height - MINI.ops - MINI.bottom);
  }

  node(ctx, lane, y) {
    const h = MINI.node - 2;
    for (const s of lane.servers) {
      if (s.process !== "running" || s.branch === null) continue;
      const full = this.theme.colour(this.model.branchColour(s.branch));
      ctx.fillStyle = s.serves === "primary" ? full : this.theme.tint(full, 0.3);
      const x = this.x(s.b);
      const w = Math.max(s.serves === "primary" ? 1 : 0.5, this.x(s.e) - x);
      ctx.fillRect(x, s.serves === "primary" ? y : y + 1.5, w, s.serves === "primary" ? h : h - 3);
    }
  }

  operations(ctx, y) {
    const { op } = this.model.trace.tables;
    const pixels = Math.ceil(this.view.width) + 1;
    const worst = new Uint8Array(pixels);
    for (let row = 0; row < op.size; row++) {
      const px = Math.floor(this.x(op.t[row]) - GUTTER);
      if (px >= 0 && px < pixels) worst[px] = Math.max(worst[px], this.model.outcomes[row]);
    }
    for (let px = 0; px < pixels; px++) {
      if (!worst[px]) continue;
      ctx.fillStyle = this.theme.colour(OUTCOMES[worst[px]]);
      ctx.fillRect(GUTTER + px, worst[px] === 1 ? y + 3 : y, 1, worst[px] === 1 ? 4 : 8);
    }
  }
}
