// Elements are made here, and text becomes text: nothing on this page is parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element with attributes (`on…` are listeners) and children, which may be text. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** A list of terms and their values; those that are null are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined);
  return el("dl", { class: "facts" }, shown.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

/**
 * A table that scrolls within itself on small screens.
 * `columns` are `{name, number}`; cells are text or nodes, the first of a row is its heading.
 */
export function table(caption, columns, rows) {
  const style = ({ number }) => (number ? "number" : null);
  const head = columns.map((column) => el("th", { scope: "col", class: style(column) }, column.name));
  const body = rows.map((cells) => {
    const made = cells.map((cell, index) =>
      index === 0
        ? el("th", { scope: "row" }, cell)
        : el("td", { class: style(columns[index]) }, cell),
    );
    return el("tr", {}, made);
  });
  const made = el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
  const scrolled = el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, made);
  return el("div", {}, scrolled, el("p", { class: "caption" }, caption));
}

export function panel(title, ...children) {
  return el("section", { class: "panel" }, title ? el("h2", {}, title) : null, ...children);
}

/** Calls `redraw(width)` now and when the width of a node changes. */
export function whenResized(node, redraw) {
  let drawn = 0;
  const observer = new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width > 0 && width !== drawn) redraw((drawn = width));
  });
  observer.observe(node);
}

/** Says something to readers of the screen. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
