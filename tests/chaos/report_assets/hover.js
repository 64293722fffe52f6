"use strict";
// What is under the pointer, in words: the first line is the title.

const NEAR = 7; // pixels
const LINES_MAX = 7;

class Pointed {
  constructor(data, view, layout) {
    Object.assign(this, { data, view, layout });
  }

  at(x, y) {
    const t = this.view.t(x);
    const lane = this.layout.at(y);
    if (x < GUTTER) return lane && lane.kind === "client" ? this.clientName(lane) : null;
    if (!lane) return [moment(t, 3)];
    const said = this[lane.kind] ? this[lane.kind](t, lane, y) : [];
    return [...said, `at ${moment(t, 3)}`];
  }

  get reach() { return (NEAR / this.view.width) * this.view.span; }

  axis(t) {
    const phase = latest(this.data.phases, t);
    return phase ? [`phase: ${phase[1]}`, `since ${moment(phase[0])}`] : [];
  }

  faults(t, lane, y) {
    const row = Math.floor((y - lane.y) / FAULT_H);
    const found = this.data.faults.filter((fault, at) => this.layout.faults.rowOf[at] === row
      && t >= fault.begin - this.reach
      && t <= (fault.end === null ? fault.begin : fault.end) + this.reach);
    return found.slice(-1).flatMap((fault) => faultLines(fault));
  }

  bucket(t, least) {
    const painter = new ChartPainter(null, this.data, this.view, null, this.layout);
    const level = painter.level(least);
    const at = Math.floor((t - level.begin) / level.width);
    return at >= 0 && at < level.writes.length ? [level, at] : null;
  }

  writes(t) {
    const near = Math.min(this.reach, 1); // an outage may be narrower than a pixel
    const gap = this.data.outages.find((each) => t >= each.begin - near && t <= each.end + near);
    const said = gap ? outageLines(gap, this.data) : [];
    const found = this.bucket(t, 1.2);
    if (!found) return said;
    const [level, at] = found;
    const rate = (count) => grouped(Math.round((count / level.width) * 10) / 10);
    return [...said, `${rate(level.writes[at])} writes and ${rate(level.reads[at])} reads a second`,
      `${level.writes[at]} and ${level.reads[at]} in ${took(level.width)}`];
  }

  latency(t, lane, y) {
    const found = this.bucket(t, 3);
    if (!found) return [];
    const [level, at] = found;
    if (level.p50[at] === null) return ["no write was acknowledged", `in these ${took(level.width)}`];
    return [`p50 ${milliseconds(level.p50[at])}, p99 ${milliseconds(level.p99[at])}`,
      `${level.writes[at]} writes in ${took(level.width)}`];
  }

  writable(t) {
    const on = this.data.nodes.filter((node) => node.writable.some(([b, e]) => t >= b && t <= e));
    const names = on.map((node) => node.name).join(" and ");
    if (!on.length) return ["no server was found out of recovery"];
    return [`${names} ${on.length > 1 ? "were both" : "was"} out of recovery`];
  }

  node(t, { node, y }, pointerY) {
    const said = [];
    const span = latest(node.spans, t);
    if (pointerY < y + 21 && span) said.push(...spanLines(node.name, span));
    const near = node.events.filter((event) => Math.abs(event[0] - t) <= this.reach);
    near.sort((a, b) => signOf(b)[2] - signOf(a)[2] || a[0] - b[0]);
    for (const [at, name, text] of near.slice(0, LINES_MAX)) {
      said.push(`${moment(at, 3)} ${spaced(name)}${text ? `: ${text}` : ""}`);
    }
    if (near.length > LINES_MAX) said.push(`and ${near.length - LINES_MAX} more`);
    if (!said.length && span) said.push(...spanLines(node.name, span));
    return said;
  }

  client(t, { index }) {
    const found = this.data.ops.filter(([client, begin, end]) => client === index
      && t >= begin - this.reach && t <= end + this.reach);
    const said = found.slice(0, LINES_MAX).flatMap((op) => opLines(op));
    if (found.length > LINES_MAX) said.push(`and ${found.length - LINES_MAX} more`);
    return said;
  }

  clientName({ client }) {
    const { ok, failed, unknown } = client.counts;
    return [client.name, `${grouped(ok)} ok, ${grouped(failed)} failed, ${grouped(unknown)} unknown`,
      `via ${client.via.join(", ")}`];
  }
}

function faultLines({ text, begin, end, nodes }) {
  const when = end === null ? `at ${moment(begin)}`
    : `${moment(begin)} – ${moment(end)} (${took(end - begin)})`;
  return [text, when, ...(nodes.length ? [`nodes: ${nodes.join(", ")}`] : [])];
}

function outageLines(gap, data) {
  return [
    `no write acknowledged for ${milliseconds(gap.ms)}${gap.open ? ", to the end" : ""}`,
    `from ${moment(gap.begin, 3)}; ${gap.failed} writes failed, ${gap.unknown} unknown`,
    ...gap.faults.slice(0, LINES_MAX).map((at) => `fault: ${data.faults[at].text}`),
  ];
}

function spanLines(name, [since, role, state, term, timeline, leader]) {
  const parts = [term === null ? "" : `term ${term}`, timeline === null ? "" : `timeline ${timeline}`,
    leader ? `leader ${leader}` : "no leader known", state].filter(Boolean);
  return [`${name}: ${role}`, parts.join(" · "), `since ${moment(since)}`];
}

function opLines([, begin, end, outcome, what, error]) {
  const word = ["slow", "failed", "unknown"][outcome];
  return [`${word} after ${took(end - begin)}: ${what}`, ...(error ? [error] : [])];
}
