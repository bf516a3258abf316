const LISTED = 8;

// What a token reads, or by whom it is read, the strongest first.
function ranking(view, token, isReading) {
  const { map, layer } = view.pairs;
  const found = [];
  view.tokens.forEach((_, other) => {
    const share = isReading
      ? map.share(layer, token, other)
      : other > token
        ? map.share(layer, other, token)
        : 0;
    if (share) found.push({ other, share });
  });
  return found.sort((a, b) => b.share - a.share);
}

function showPanel(view, token) {
  const { data, panel } = view;
  const about = make("p", "about", make("b", "", `\u2068${data.labels[token]}\u2069`));
  about.append(` ${whereIs(data.spans[token])} of 0–${data.spans.at(-1)[1] - 1}`);
  panel.replaceChildren(about, facts(view, token));
  if (view.pairs) {
    panel.append(make("div", "lists", list(view, token, true), list(view, token, false)));
  }
  panel.hidden = false;
}

function facts(view, token) {
  const rows = make("dl", "");
  for (const series of view.data.series) {
    const value = seriesRow(view, series)[token];
    const name = series.layers.length ? `${series.name}, ${view.layerName(series)}` : series.name;
    rows.append(make("dt", "", name), make("dd", "", withUnit(value, series)));
    const words = series.words[layerOf(view, series)]?.[token];
    if (words) rows.append(make("dd", "words", words));
  }
  return rows;
}

function list(view, token, isReading) {
  const title = isReading ? "reads" : "is read by";
  const kind = isReading ? "reads" : "read";
  const best = ranking(view, token, isReading).slice(0, LISTED);
  const largest = best.length ? best[0].share : 1;
  const rows = make("ol", "");
  for (const { other, share } of best) {
    const name = make("code", "", `\u2068${view.data.labels[other]}\u2069 `);
    name.append(make("small", "", String(view.data.spans[other][0])));
    const row = make("li", "rank", name, make("span", "", percent(share)));
    row.style.setProperty("--w", (share / largest).toFixed(3));
    row.style.setProperty("--color", `var(--${kind})`);
    rows.append(row);
  }
  if (!best.length) rows.append(make("li", "", nothing(view, token, isReading)));
  return make("div", "", make("p", "", swatch(kind), ` ${title}`), rows);
}

function nothing(view, token, isReading) {
  const isLast = token === view.tokens.length - 1;
  if (!view.pairs.map.whole && !(isReading && isLast)) return "not stored";
  return isReading ? "nothing" : isLast ? "nothing comes after it" : "no token";
}

// One sentence for those who listen.
function tell(view, token) {
  const { data } = view;
  const parts = [`${quote(data.labels[token])}, ${whereIs(data.spans[token])}`];
  if (view.series) {
    const row = seriesRow(view, view.series);
    parts.push(`${view.series.name} ${withUnit(row[token], view.series)}`);
    parts.push(view.layerName(view.series));
    parts.push(view.series.words[layerOf(view, view.series)]?.[token]);
  } else {
    parts.push(view.pairs.map.title, view.layerName(view.pairs.map));
    const name = ({ other, share }) => `${quote(data.labels[other])} ${percent(share)}`;
    for (const [isReading, verb] of [[true, "reads"], [false, "is read by"]]) {
      const best = ranking(view, token, isReading).slice(0, 3).map(name);
      if (best.length) parts.push(`${verb} ${best.join(", ")}`);
    }
  }
  view.said.textContent = parts.filter(Boolean).join("; ");
}
