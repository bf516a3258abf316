const FAINT = 0.03;
const PARTS = [0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9];

// A view is what its controls say, and two tokens: the one that was chosen, and the one
// that hand or key is over. What is drawn follows from these alone.
function makeView(root) {
  const find = (selector) => root.querySelector(selector);
  const data = JSON.parse(find(".data").textContent);
  const tokens = [...root.querySelectorAll(".token")];
  const view = {
    root, data, tokens,
    form: find(".controls"),
    text: find(".tokens"),
    panel: find(".panel"),
    said: find(".said"),
    maps: [],
    chosen: tokens.length - 1,
    over: null,
    layerLabel: null, // the layer that was asked for, of whatever is shown
    shown: null, // the layer that is shown, asked for or not
  };
  const names = () => [...new Set(view.maps.map((map) => map.name))];
  view.names = names;
  view.tokenOf = (event) => {
    const token = event.target.closest?.(".token");
    return token ? Number(token.dataset.i) : null;
  };
  view.layerName = (of) => layersOf(of)[indexOfLayer(view, of)]?.label ?? "";
  view.draw = () => draw(view);
  view.choose = (token) => choose(view, token);
  view.goTo = (token) => goTo(view, token);
  view.reset = () => reset(view);
  view.moveLayer = (step) => moveLayer(view, step);
  return view;
}

// The layers that something can be seen in: of maps the mean, too.
function layersOf(of) {
  const own = of.layers.map((label, at) => ({ label, at }));
  const isMap = "share" in of;
  if (isMap && own.length > 1) return [{ label: "mean of all layers", at: null }, ...own];
  return own;
}

function indexOfLayer(view, of) {
  const layers = layersOf(of);
  const name = view.layerLabel ?? view.shown;
  const asked = layers.findIndex(({ label }) => label === name);
  return asked >= 0 ? asked : "share" in of ? 0 : strongestRow(of);
}

const sizeOf = (row) => Math.max(...row.map((value) => Math.abs(value ?? 0)));

// The layer of a series that has its largest value: what is seen first.
function strongestRow({ values }) {
  const sizes = values.map(sizeOf);
  return sizes.indexOf(Math.max(...sizes));
}

// The layer that is shown of something; null is the mean of all.
function layerOf(view, of) {
  return of.layers.length ? layersOf(of)[indexOfLayer(view, of)].at : 0;
}

const seriesRow = (view, series) => series.values[layerOf(view, series)];

// Reads the controls: what shades the text, and what lists between tokens are of.
function read(view) {
  const { form, data, maps } = view;
  const [kind, ...digits] = form.elements.shade.value;
  const index = Number(digits.join(""));
  view.series = kind === "s" ? data.series[index] : null;
  const name = view.names()[view.series ? 0 : index];
  const ofName = maps.filter((map) => map.name === name);
  const map = ofName.find((one) => one.of === form.elements.of.value) ?? ofName[0];
  view.pairs = map ? { map, layer: layerOf(view, map) } : null;
  view.shown = view.layerName(view.series ?? map) || null;
  fillGroups(view, ofName, map);
}

function fillGroups(view, ofName, map) {
  const select = view.form.elements.of;
  const groups = ofName.map((one) => one.of);
  if (groups.join("\n") !== [...select.options].map((o) => o.value).join("\n")) {
    select.replaceChildren(...groups.map((group) => new Option(group, group)));
  }
  if (map) select.value = map.of;
  select.closest("label").hidden = Boolean(view.series) || groups.length < 2;
  view.form.elements.direction.closest("label").hidden = Boolean(view.series);
}

function showLayer(view) {
  const of = view.series ?? view.pairs.map;
  const layers = layersOf(of);
  const { layer, "layer-name": name } = view.form.elements;
  layer.closest("label").hidden = layers.length < 2;
  layer.max = Math.max(0, layers.length - 1);
  layer.value = indexOfLayer(view, of);
  name.value = view.layerName(of);
  layer.setAttribute("aria-valuetext", name.value);
}

// What each token is shaded by: a value, and what kind of value it is.
function shades(view, focus) {
  if (view.series) {
    return seriesRow(view, view.series).map((value) => {
      return { value, kind: value < 0 ? "against" : "toward" };
    });
  }
  const { map, layer } = view.pairs;
  const direction = view.form.elements.direction.value;
  return view.tokens.map((_, j) => {
    const kind = j > focus ? "read" : "reads";
    if (direction !== "both" && direction !== kind && j !== focus) return { value: 0, kind };
    if (direction === "read" && j === focus) return { value: 0, kind };
    const [reader, other] = j > focus ? [j, focus] : [focus, j];
    return { value: map.share(layer, reader, other), kind };
  });
}

function draw(view) {
  read(view);
  showLayer(view);
  const focus = view.over ?? view.chosen;
  const all = shades(view, focus);
  // of a series in all layers, so that layers can be compared
  const rows = view.series?.values ?? [all.map(({ value }) => value)];
  const largest = Math.max(...rows.map(sizeOf)) || 1;
  const part = PARTS[view.form.elements.threshold.value];
  all.forEach(({ value, kind }, j) => shade(view, j, kind, value, largest, part));
  const threshold = view.form.elements["threshold-name"];
  threshold.value = part ? `${100 * part} % of the strongest` : "nothing";
  view.form.elements.threshold.setAttribute("aria-valuetext", threshold.value);
  legend(view, focus, largest);
  showPanel(view, focus);
}

function shade(view, j, kind, value, largest, part) {
  const token = view.tokens[j];
  const isBetween = !view.series;
  const size = Math.abs(value ?? 0) / largest;
  const root = Math.sqrt(size); // so that weak ones show
  const weight = size >= part && root >= FAINT ? root : 0;
  token.className = `token ${kind}`;
  token.classList.toggle("unknown", !known(value));
  token.classList.toggle("focus", isBetween && j === (view.over ?? view.chosen));
  token.classList.toggle("chosen", isBetween && j === view.chosen);
  token.setAttribute("aria-selected", String(j === view.chosen));
  token.style.setProperty("--w", weight.toFixed(3));
}

function legend(view, focus, largest) {
  const line = view.root.querySelector(".legend");
  if (view.series) {
    const { toward, against, unit, layers } = view.series;
    const of = layers.length ? "strongest of all layers" : "strongest";
    const strongest = `${of}: ${withUnit(largest, { unit })}`;
    const parts = [swatch("toward"), ` ${toward} `];
    if (against) parts.push(swatch("against"), ` ${against} `);
    line.replaceChildren(...parts, `(${strongest})`);
    return;
  }
  const { map } = view.pairs;
  const parts = [view.layerName(map), map.of].filter(Boolean).join(", ");
  line.replaceChildren(
    swatch("reads"), ` what ${quote(view.data.labels[focus])} reads, `,
    swatch("read"), ` what reads it: shares of all that a token reads; the darkest is `,
    `${percent(largest)} (${parts}). ${map.about}`,
  );
}

// Chooses a token for good, and turns to what is between tokens.
function choose(view, token) {
  view.chosen = token;
  const { shade } = view.form.elements;
  if (view.series && view.pairs) {
    shade.value = "m0";
    mirror(view, shade);
  }
  view.draw();
  tell(view, token);
}

function goTo(view, token) {
  view.tokens.forEach((one, j) => (one.tabIndex = j === token ? 0 : -1));
  view.tokens[token].focus();
}

function hover(view, token) {
  if (view.over === token) return;
  view.over = token;
  view.draw();
}

function reset(view) {
  view.form.reset();
  view.over = null;
  view.layerLabel = view.shown = null;
  view.chosen = view.tokens.length - 1;
  view.draw();
}

function moveLayer(view, step) {
  const of = view.series ?? view.pairs.map;
  const layers = layersOf(of);
  const index = Math.min(layers.length - 1, Math.max(0, indexOfLayer(view, of) + step));
  view.layerLabel = layers[index]?.label ?? null;
  view.draw();
}
