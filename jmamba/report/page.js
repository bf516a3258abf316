"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(atob(data.rows), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const count = data.pieces.length;
  const perLayer = data.full ? (count * (count + 1)) / 2 : count;
  const byId = (id) => document.getElementById(id);
  const text = byId("text");
  const tokens = [...text.querySelectorAll(".token")];
  const state = { mode: "left_out", layer: 0, reading: count - 1 };

  // Layer 0 of the slider is the mean; row i of a triangle starts at i (i + 1) / 2.
  const share = (layer, i, j) => {
    const offset = data.full ? (i * (i + 1)) / 2 + j : j;
    return view.getUint16(2 * (layer * perLayer + offset), true) / 65535;
  };
  const attentionRow = (i) =>
    Array.from({ length: i + 1 }, (_, j) => {
      if (state.layer > 0) return share(state.layer - 1, i, j);
      let sum = 0;
      for (let k = 0; k < data.layers; k++) sum += share(k, i, j);
      return sum / data.layers;
    });
  // Labels keep their own direction within a line: Unicode's isolates.
  const isolate = (label) => `\u2068${label}\u2069`;
  const percent = (x) => (100 * x).toFixed(x < 0.1 ? 2 : 1) + "\u00a0%";
  const layerName = () =>
    state.layer === 0 ? "mean of all" : `layer ${state.layer - 1}`;
  const signed = (x) => {
    const size = Math.abs(x);
    const digits = size > 0 && size < 1e-3 ? size.toExponential(1) : size.toPrecision(3);
    return (x < 0 ? "−" : "+") + digits;
  };

  const values = () =>
    state.mode === "attention"
      ? attentionRow(state.reading)
      : state.mode === "left_out"
        ? data.left_out
        : data.relevance[state.mode];

  function shade() {
    const row = values();
    const largest = Math.max(...row.map(Math.abs)) || 1; // |null| is 0
    const isAttention = state.mode === "attention";
    tokens.forEach((token, j) => {
      const value = row[j];
      const kind = isAttention ? "attention" : value < 0 ? "against" : "toward";
      token.className = `token ${kind}`;
      token.classList.toggle("reading", isAttention && j === state.reading);
      token.classList.toggle("ahead", value === undefined || value === null);
      const weight = Math.sqrt(Math.abs(value || 0) / largest); // so weak ones show
      token.style.setProperty("--w", weight.toFixed(3));
    });
    byId("attention-controls").hidden = !isAttention;
    byId("layer-name").textContent = layerName();
    byId("reset").hidden = state.reading === count - 1;
    legend(isAttention, largest);
  }

  function legend(isAttention, largest) {
    const element = byId("legend");
    if (!isAttention) {
      element.replaceChildren(...driverLegend.map((node) => node.cloneNode(true)));
      const unit = state.mode === "left_out" ? "bits" : `by ${state.mode}`;
      byId("strongest").textContent =
        `(strongest: ${largest.toPrecision(3)} ${unit})`;
      return;
    }
    const swatch = document.createElement("span");
    swatch.className = "swatch attention";
    const name = data.pieces[state.reading];
    const hint = data.full ? " Click a token to read from it." : "";
    element.replaceChildren(
      swatch,
      ` how much the outlined token “${isolate(name)}” reads from each token ` +
        `(${layerName()}); the darkest is ${percent(largest)}.${hint}`,
    );
  }

  function describe(j) {
    const [start, stop] = data.spans[j];
    const where = stop - start > 1 ? `tokens ${start}–${stop - 1}` : `token ${start}`;
    const lines = [`“${isolate(data.pieces[j])}” · ${where}`];
    const lost = data.left_out[j];
    lines.push(
      lost === null
        ? "left out: not computed, too far back"
        : `left out: ${signed(lost)} bits of ${data.explained} lost`,
      ...Object.entries(data.relevance).map(
        ([name, values]) => `${name}: ${signed(values[j])}`,
      ),
    );
    const row = attentionRow(state.reading);
    const from = state.reading === count - 1 ? "last token" : "outlined token";
    lines.push(
      row[j] === undefined
        ? `comes after the ${from}`
        : `attention from the ${from} (${layerName()}): ${percent(row[j])}`,
    );
    return lines.join("\n");
  }

  function showTip(token) {
    const tip = byId("tip");
    tip.textContent = describe(Number(token.dataset.i));
    tip.hidden = false;
    const box = token.getClientRects()[0] || token.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(box.left, width - tip.offsetWidth - 8);
    const legend = byId("legend").getBoundingClientRect();
    const below = box.bottom + 6;
    const room = Math.min(window.innerHeight, legend.top); // clear of the legend
    const top =
      below + tip.offsetHeight < room ? below : box.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${top + window.scrollY}px`;
  }
  const hideTip = () => (byId("tip").hidden = true);

  function read(j) {
    if (data.full) state.reading = j;
    state.mode = "attention";
    byId("controls").elements.mode.value = "attention";
    shade();
  }

  const driverLegend = [...byId("legend").childNodes];
  const tokenOf = (event) => event.target.closest(".token");
  text.addEventListener("mouseover", (event) => {
    if (tokenOf(event)) showTip(tokenOf(event));
  });
  text.addEventListener("mouseleave", hideTip);
  text.addEventListener("focusin", (event) => {
    if (tokenOf(event)?.matches(":focus-visible")) showTip(tokenOf(event));
  });
  text.addEventListener("focusout", hideTip);
  text.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (!token) return;
    read(Number(token.dataset.i));
    showTip(token);
  });
  text.addEventListener("keydown", (event) => {
    const token = tokenOf(event);
    if (!token) return;
    const j = Number(token.dataset.i);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && tokens[j + step]) {
      token.tabIndex = -1;
      tokens[j + step].tabIndex = 0;
      tokens[j + step].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      read(j);
      showTip(token);
    } else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  tokens.forEach((token, j) => {
    token.tabIndex = j === 0 ? 0 : -1; // one stop for Tab, arrows inside
  });
  byId("controls").hidden = false;
  byId("controls").addEventListener("input", () => {
    state.mode = byId("controls").elements.mode.value;
    state.layer = Number(byId("layer").value);
    shade();
  });
  byId("reset").addEventListener("click", () => read(count - 1));
  shade();
})();
