"use strict";
// Times and names as words.

// A moment: seconds since the run's start, as in the history.
function moment(t, digits = 2) {
  return `${t.toFixed(digits)} s`;
}

// A length of time.
function took(s) {
  if (s < 0.01) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  return s < 120 ? `${s.toFixed(2)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

function milliseconds(ms) {
  return took(ms / 1000);
}

function spaced(name) {
  return String(name || "").replace(/_+/g, " ");
}

// First position whose value is above t; the values grow.
function above(length, value, t) {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (value(middle) > t) high = middle;
    else low = middle + 1;
  }
  return low;
}

// The last entry of [[t, …], …] that is not after t, or undefined.
function latest(entries, t) {
  return entries[above(entries.length, (at) => entries[at][0], t) - 1];
}
