"use strict";
// Colours, hatches and fitted text for the canvases. The colours are the page's own variables, so
// that canvas and page agree in light and in dark; the hues are those of Okabe and Ito, which
// stay apart for the colour-blind. Whatever has a meaning also has a word, a shape or a hatch.

const FONT = '-apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif';
const BRANCH_COLOURS = 6; // --branch0 … in page.css
const NODE_COLOURS = 6; // --node0 …

class Theme {
  constructor(forced) {
    this.forced = forced; // "light", "dark" or "": as the system says
    this.media = window.matchMedia("(prefers-color-scheme: dark)");
    this.apply();
  }

  apply() {
    const name = this.forced || (this.media.matches ? "dark" : "light");
    document.documentElement.dataset.theme = name;
    const style = getComputedStyle(document.documentElement);
    this.colours = new Map();
    this.read = (key) => style.getPropertyValue(`--${key}`).trim();
    this.hatches = new Map();
    this.inks = new Map();
  }

  colour(key) {
    let value = this.colours.get(key);
    if (value === undefined) this.colours.set(key, value = this.read(key));
    return value;
  }

  // Black or white, whichever is read more easily on this colour.
  ink(colour) {
    let value = this.inks.get(colour);
    if (value === undefined) {
      const [r, g, b] = rgb(colour).map((part) => {
        const linear = part / 255;
        return linear <= 0.04045 ? linear / 12.92 : ((linear + 0.055) / 1.055) ** 2.4;
      });
      const light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
      this.inks.set(colour, value = light > 0.2 ? "#10141a" : "#ffffff");
    }
    return value;
  }

  // The colour thinned towards the background.
  tint(colour, share) {
    const key = `${colour}/${share}`;
    let value = this.inks.get(key);
    if (value === undefined) {
      const under = rgb(this.colour("bg"));
      const mixed = rgb(colour).map((part, at) => Math.round(part * share + under[at] * (1 - share)));
      this.inks.set(key, value = `rgb(${mixed.join(",")})`);
    }
    return value;
  }

  // A pattern of diagonal lines.
  hatch(ctx, colour, gap = 6, width = 1.5) {
    const key = `${colour}/${gap}/${width}`;
    let pattern = this.hatches.get(key);
    if (!pattern) {
      const ratio = Math.max(1, Math.round(devicePixelRatio || 1));
      const tile = document.createElement("canvas");
      tile.width = tile.height = gap * ratio;
      const pen = tile.getContext("2d");
      pen.scale(ratio, ratio);
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      for (const shift of [-gap, 0, gap]) {
        pen.moveTo(shift - 1, gap + 1);
        pen.lineTo(shift + gap + 1, -1);
      }
      pen.stroke();
      pattern = ctx.createPattern(tile, "repeat");
      pattern.setTransform(new DOMMatrix([1 / ratio, 0, 0, 1 / ratio, 0, 0]));
      this.hatches.set(key, pattern);
    }
    return pattern;
  }
}

function rgb(colour) {
  if (colour.startsWith("#")) {
    const hex = colour.length === 4 ? colour.replace(/[0-9a-f]/gi, "$&$&") : colour;
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }
  return (colour.match(/[\d.]+/g) || [0, 0, 0]).slice(0, 3).map(Number);
}

const widths = new Map(); // font + text → pixels
const WIDTHS_MAX = 20000;

function textWidth(ctx, text) {
  const key = `${ctx.font}|${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    if (widths.size > WIDTHS_MAX) widths.clear();
    widths.set(key, width = ctx.measureText(text).width);
  }
  return width;
}

// Write the first of these texts that fits into the room, or nothing. Returns the width used.
function writeFirst(ctx, texts, x, y, room) {
  for (const text of texts) {
    const width = textWidth(ctx, text);
    if (width <= room) {
      ctx.fillText(text, x, y);
      return width;
    }
  }
  return 0;
}

// The text, cut short with an ellipsis if it does not fit; "" if hardly a letter does.
function fitted(ctx, text, room) {
  if (textWidth(ctx, text) <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (ctx.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle;
    else high = middle - 1;
  }
  return low < 3 ? "" : `${text.slice(0, low)}…`;
}

// Size a canvas for the screen's pixels and return its context, cleared, in CSS pixels.
function prepared(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  const w = Math.round(width * ratio);
  const h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  return ctx;
}

function font(ctx, size, weight = "") {
  ctx.font = `${weight} ${size}px ${FONT}`.trim();
}
