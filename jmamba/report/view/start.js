const MIRRORED = "mirrored";

function listen(view) {
  const { root, text, form } = view;
  text.addEventListener("mouseover", (event) => {
    if (view.tokenOf(event) !== null) hover(view, view.tokenOf(event));
  });
  text.addEventListener("mouseleave", () => hover(view, null));
  text.addEventListener("focusin", (event) => {
    const token = view.tokenOf(event);
    if (token === null || !event.target.matches(":focus-visible")) return;
    hover(view, token);
    tell(view, token);
  });
  text.addEventListener("focusout", () => hover(view, null));
  text.addEventListener("click", (event) => {
    const token = view.tokenOf(event);
    if (token === null) return;
    goTo(view, token);
    choose(view, token);
  });
  root.addEventListener("keydown", (event) => onKey(view, event));
  form.addEventListener("input", (event) => {
    if (event.target.name === "layer") {
      const of = view.series ?? view.pairs.map;
      view.layerLabel = layersOf(of)[event.target.value]?.label ?? null;
    }
    view.draw();
    if (event.detail !== MIRRORED) mirror(view, event.target);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements["start-over"].addEventListener("click", () => reset(view));
}

function label(view) {
  const count = view.tokens.length;
  view.text.setAttribute("role", "listbox");
  view.text.setAttribute("aria-label", `${view.root.ariaLabel}: ${count} tokens`);
  view.text.setAttribute("aria-orientation", "horizontal");
  view.tokens.forEach((token, j) => {
    token.setAttribute("role", "option");
    if (!token.textContent.trim()) token.setAttribute("aria-label", view.data.labels[j]);
    token.tabIndex = j === count - 1 ? 0 : -1; // one stop for Tab, arrows inside
  });
  view.form.hidden = false;
  view.panel.setAttribute("role", "group");
  view.panel.setAttribute("aria-label", "The token and what it reads");
  for (const hidden of view.root.querySelectorAll(".keys")) hidden.hidden = false;
}

// Of two views beside each other, what is chosen in one is chosen in the other.
function mirror(view, control) {
  const pair = view.root.closest(".jmamba-pair");
  if (!pair) return;
  for (const root of pair.querySelectorAll(".jmamba-view")) {
    if (root === view.root) continue;
    const other = root.querySelector(".controls").elements[control.name];
    copyChoice(control, other);
    const detail = MIRRORED;
    other.dispatchEvent(new CustomEvent("input", { bubbles: true, detail }));
  }
}

// What has the same name is chosen, whatever its place.
function copyChoice(from, to) {
  if (from.type === "range") to.value = from.value;
  else {
    const chosen = from.selectedOptions[0].label;
    const same = [...to.options].findIndex(({ label }) => label === chosen);
    if (same >= 0) to.selectedIndex = same;
  }
}

async function start(root) {
  root.dataset.state = "starting";
  const view = makeView(root);
  const count = view.tokens.length;
  try {
    view.maps = await Promise.all(view.data.maps.map((map) => openMap(map, count)));
  } catch (error) {
    view.said.classList.replace("said", "notes");
    view.said.textContent = `This browser cannot unpack what is between tokens: ${error}`;
    root.querySelector('optgroup[label="between tokens"]').remove();
  }
  label(view);
  listen(view);
  view.draw();
  root.dataset.state = "ready";
}

for (const root of document.querySelectorAll(".jmamba-view:not([data-state])")) start(root);
