// Labels keep their own direction within a line: Unicode's isolates.
const quote = (label) => `“\u2068${label}\u2069”`;
const percent = (x) => (100 * x).toFixed(x < 0.1 ? 2 : 1) + "\u00a0%";

function signed(x) {
  const size = Math.abs(x);
  const small = size > 0 && size < 1e-3;
  return (x < 0 ? "−" : "+") + (small ? size.toExponential(1) : size.toPrecision(3));
}

const known = (x) => x !== undefined && x !== null;

// A value of a series: with its sign where there are two.
function withUnit(x, { unit, against }) {
  if (!known(x)) return "not known";
  const number = against ? signed(x) : String(Number(x.toPrecision(3)));
  return `${number} ${unit}`.trim();
}

function whereIs([start, stop]) {
  return stop - start > 1 ? `tokens ${start}–${stop - 1}` : `token ${start}`;
}

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function swatch(kind) {
  const element = make("span", `swatch ${kind}`);
  element.setAttribute("aria-hidden", "true");
  return element;
}
