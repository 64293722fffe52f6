"use strict";
// What the help says: the signs of the drawing and the keys.

const HELP_SIGNS = [
  ["writable", "which server is writable (pale: still closed to clients); two colours at once are a split brain"],
  ["agent", "role and term: leader dark, candidate orange, follower light; hatched: paused, suspended or down"],
  ["lease", "filled until the last renewal, hatched while it runs out; a red end: it was not given up but ran out; thin outline: a hold (votes for nobody else); red hatch: the guard is down or frozen"],
  ["postgres", "one colour per branch of history; full: primary, light: standby, hatched: starting or stopping, empty: stopped; the number at the right is the end of its WAL"],
  ["steps", "what the supervisor does to the server: promote, rewind, clone…; red: failed"],
  ["log", "ticks are log lines, triangles warnings (orange) and errors (red), flags are marks"],
  ["between lanes", "messages: arrow sent → arrived, red cross: lost or cut, ring: held by a clog; red dashes: a partition, with the side of each lane written in it"],
  ["clients", "green: ok (low bar), red: failed (high bar, ✕), orange: unknown (high bar, ?)"],
  ["numbers", "red circles are the causes of the violation, in the order of the list at the right"],
];
const HELP_KEYS = [
  ["wheel", "zoom at the pointer; Shift: pan; Alt: scroll the lanes"],
  ["drag", "pan; with Shift: zoom into the range; on the axis: move the cursor; below: move the view"],
  ["click", "cursor there, and everything the trace says of what is there"],
  ["← →", "pan; with Shift: by a screen"], ["+ −", "zoom"], ["Home or 0", "the whole run"],
  ["v", "the violation and its causes"], ["[ ]", "previous, next cause"],
  ["p n", "previous, next event of the list"], [", .", "cursor a little back, on"],
  ["1 2 3 4", "groups of messages on or off"], ["/", "filter events"], ["Esc", "select nothing"],
];

function helpContents(close) {
  const list = (pairs, tag) => el("dl", {}, ...pairs.flatMap(([term, text]) => [
    el("dt", {}, el(tag, {}, term)), el("dd", {}, text)]));
  return [
    el("button", { type: "button", class: "close", onclick: close }, "Close"),
    el("h2", {}, "What is drawn"), list(HELP_SIGNS, "b"),
    el("h2", {}, "How to move"), list(HELP_KEYS, "kbd"),
    el("p", {}, "The address of the page holds the view: ",
      el("code", {}, "#t=12.5&zoom=2&c=12&filter=lease&level=2&kinds=agreement,gossip&sel=812&theme=dark"),
      " (cursor, seconds seen, their middle, filter, severity 0–3, messages, selected line, colours)."),
  ];
}
