"use strict";
// Elements, and numbers in them.

// Build an element. Texts become text nodes, so nothing in the data is ever read as HTML.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function byId(id) {
  return document.getElementById(id);
}

function grouped(count) {
  // A narrow no-break space between thousands, as the SI writes numbers.
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}
