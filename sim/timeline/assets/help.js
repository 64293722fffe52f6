"use strict";
// What the help says: the signs of the drawing, the words of the design, and the keys.

const HELP_SIGNS = [
  ["writable", "which server can write (pale: clients are not admitted yet, it can write all the same); two at once are a split brain"],
  ["agent", "role and term: leader dark, candidate orange, follower light; hatched: paused, suspended or down"],
  ["lease, hold", "full: a lease, hatched from its last renewal on, red end: it was not given up but ran out; outline: a hold, dashed from the last heartbeat on; both in the colour beside the name of the node whose lease it is; red hatch: the guard is down or frozen"],
  ["postgres", "one colour per branch of history; full: primary, light: standby, hatched: starting or stopping, empty: stopped; the number at the right is the end of its WAL"],
  ["commits wait for", "of a primary and of who is to be one: how many of which standbys; orange: nobody"],
  ["steps", "what the supervisor does to the server: promote, rewind, clone…; red: failed"],
  ["log", "ticks are log lines, triangles warnings (orange) and errors (red), flags are marks"],
  ["between lanes", "messages: arrow sent → arrived, red cross: lost or cut, ring: held by a clog; red dashes: a partition, with the side of each lane written in it"],
  ["acknowledged", "how far commits were acknowledged; the scale is that of what is seen, its ends stand at the left"],
  ["clients", "green: ok (low bar), red: failed (high bar, ✕), orange: unknown (high bar, ?)"],
  ["numbers", "red circles are the causes of the violation, in the order of the list at the right; a line leads from each to its event"],
];
const HELP_WORDS = [
  ["term", "number of an election; one node leads in a term, and a higher term ends a lower one"],
  ["lease", "a leader's right to have a writable server, counted from the sending of the last heartbeat that a majority answered"],
  ["hold", "for so long after a leader's heartbeat a voter votes for nobody else; counted from receiving, so it outlasts the lease"],
  ["guard", "a process beside PostgreSQL that ends it when the lease ends, also when the agent is dead or frozen"],
  ["promise", "what a vote brings with it: nothing of a lower term is obeyed any more, and no WAL is taken from its primary"],
  ["detach", "a voter's server stops receiving WAL and makes sure of it; only then does the voter say how far its WAL reaches"],
  ["k", "how many of the listed standbys have to have a commit before it returns; k = 0: none, the primary acknowledges alone"],
  ["document 2.7", "what the voters agree on, version 7 of term 2: primary, voters, the standbys that commits wait for, k, timelines"],
  ["barrier", "the wait until every WAL sender knows a changed set of standbys and k of them have all WAL so far; only then does the change count"],
  ["data quorum", "so many promises (standbys − k + 1) that one of them must have every acknowledged commit"],
  ["branch", "the true history that a server is on, which no node can see; two promotions may take the same timeline number"],
];
const HELP_KEYS = [
  ["wheel", "zoom at the pointer; Shift: pan; Alt: scroll the lanes"],
  ["drag", "pan; with Shift: zoom into the range; on the axis: move the cursor; below: move the view"],
  ["click", "cursor there, and everything the trace says of what is there at that time"],
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
    el("h2", {}, "Words"), list(HELP_WORDS, "b"),
    el("h2", {}, "How to move"), list(HELP_KEYS, "kbd"),
    el("p", {}, "The address of the page holds the view: ",
      el("code", {}, "#t=12.5&zoom=2&c=12&filter=lease&level=2&kinds=agreement,gossip&sel=812&theme=dark"),
      " (cursor, seconds seen, their middle, filter, severity 0–3, messages, selected line, colours)."),
  ];
}
