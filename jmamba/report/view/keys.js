// The token that a key leads to, null for none.
function tokenAfterKey(view, key, token) {
  const isLeftward = getComputedStyle(view.text).direction === "rtl";
  const ahead = isLeftward ? -1 : 1;
  const last = view.tokens.length - 1;
  const next = {
    ArrowRight: token + ahead,
    ArrowLeft: token - ahead,
    Home: 0,
    End: last,
    ArrowUp: onNextLine(view, token, -1),
    ArrowDown: onNextLine(view, token, 1),
  }[key];
  return next === undefined ? null : Math.min(last, Math.max(0, next));
}

// The token closest to one, on the line above or below it.
function onNextLine(view, token, step) {
  const boxOf = (i) => view.tokens[i].getClientRects()[0];
  const here = boxOf(token);
  const isBeyond = (box) => step * (box.top - here.top) > here.height / 2;
  let best = token;
  let line = null;
  for (let i = token + step; view.tokens[i]; i += step) {
    const box = boxOf(i);
    if (!box || !isBeyond(box)) continue;
    if (line !== null && Math.abs(box.top - line) > here.height / 2) break;
    const isFirst = line === null;
    line = box.top;
    const isCloser = () =>
      Math.abs(box.left - here.left) < Math.abs(boxOf(best).left - here.left);
    if (isFirst || isCloser()) best = i;
  }
  return best;
}

function onKey(view, event) {
  const token = view.tokenOf(event);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") view.reset();
  else if (token === null) return;
  else if (event.key === "Enter" || event.key === " ") view.choose(token);
  else if (event.key === "PageUp" || event.key === "PageDown") {
    view.moveLayer(event.key === "PageUp" ? -1 : 1);
    tell(view, token);
  } else {
    const next = tokenAfterKey(view, event.key, token);
    if (next === null) return;
    view.goTo(next);
  }
  event.preventDefault();
}
