// The page of `edgefuse data browse`: a grid of pairs, one pair in large, and keys that label, delete and undo.

import { $, decimals, el, percent, post, setText } from "./common.js";

const COUNT = 60;
const POLL_MS = 2000;
const FILTERS = ["show", "label", "sequence", "answer", "reason", "order"];
const OUT = { deleted: "deleted", gone: "moved or removed by another program" };
const READY = { twins: "twins", elsewhere: "twins", issues: "issues" };

// `rows`: what is shown, by number; `current` has the focus.
const page = { state: null, rows: new Map(), total: 0, start: 0, current: null, chosen: new Set(), asked: 0, queue: Promise.resolve() };

const all = (selector) => document.querySelectorAll(selector);
const cardOf = (id) => document.querySelector(`[data-id="${id}"]`);
const nameOf = (row) => `${row.is_review ? "to be checked: " : ""}${row.label}/${row.sequence}/${row.name}`;
const done = (text) => all(".done").forEach((one) => setText(one, text));
const show = (id, text) => {
  setText(id, text);
  $(id).hidden = !text;
};

async function get(path, values) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`, { cache: "no-store" });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function poll() {
  let state;
  try {
    state = await get("/state", { revision: page.state?.revision ?? "" });
  } catch (error) {
    page.isLost = true;
    return show("notice", `No connection to edgefuse data browse: ${error.message}`);
  }
  if (page.isLost) show("notice", "");
  page.isLost = false;
  if (page.state && state.run !== page.state.run) return location.reload();
  if (!state.labels) return;
  const ready = page.state?.ready.join();
  page.state = state;
  showState(state);
  if (!page.rows.size || (ready !== state.ready.join() && READY[$("show").value])) await load();
  else take((await get("/pairs", { ids: [...page.rows.keys()] })).rows);
}

function fill(id, names) {
  const select = $(id);
  const { value } = select;
  const values = [...new Set(["", value, ...names])];
  $(id).parentElement.hidden = id !== "label" && values.length < 2;
  if (select.dataset.values === values.join("\n")) return;
  select.dataset.values = values.join("\n");
  select.replaceChildren(...values.map((name) => el("option", { value: name }, name || "any")));
  select.value = value;
}

function showState(state) {
  document.title = `${state.title} – edgefuse data browse`;
  setText("title", state.title);
  const review = state.num_review ? `, ${state.num_review} to be checked` : "";
  setText("numbers", `${state.num_pairs.toLocaleString("en")} pairs, ${Object.keys(state.counts).length} classes${review}`);
  const [read, total] = state.progress ?? [0, 0];
  setText("progress", state.message || (read < total ? `read ${read} of ${total}` : ""));
  const locked = state.read_only.filter(Boolean);
  document.body.classList.toggle("reading", locked.length === state.read_only.length);
  show("remarks", [...locked, state.problems].filter(Boolean).join("\n"));
  fill("label", Object.keys(state.counts).sort());
  fill("sequence", state.sequences);
  fill("answer", state.answers);
  fill("reason", state.reasons);
  $("order").options[1].disabled = $("show").options[5].disabled = !state.has_model;
  all(".accept").forEach((one) => (one.hidden = !state.num_review));
  all(".undo").forEach((one) => Object.assign(one, { disabled: !state.last, title: state.last?.text ?? "" }));
  const key = (place) => (place < 9 ? [el("kbd", {}, place + 1), " "] : []);
  $("names").replaceChildren(...state.labels.slice(0, 9).map((label, place) => el("span", {}, ...key(place), label)));
  $("buttons").replaceChildren(...state.labels.map((label, place) => el("button", { type: "button", onclick: () => change("/label", { label }) }, ...key(place), label)));
}

async function load(start = page.start) {
  const asked = ++page.asked;
  const query = Object.fromEntries(FILTERS.map((id) => [id, $(id).value]));
  const found = await get("/pairs", { ...query, start, count: COUNT });
  if (asked !== page.asked) return;
  Object.assign(page, { total: found.total, start: found.start, rows: new Map(found.rows.map((row) => [row.id, row])) });
  page.chosen.clear();
  if (!page.rows.has(page.current)) page.current = found.rows[0]?.id;
  $("grid").replaceChildren(...found.rows.map(card));
  const waits = READY[query.show];
  show("empty", found.total ? "" : waits && !page.state.ready.includes(waits) ? "All pairs are being read." : "No pair matches.");
  setText("place", found.total ? `${found.start + 1}–${found.start + found.rows.length} of ${found.total.toLocaleString("en")}` : "");
  $("previous").disabled = !found.start;
  $("next").disabled = found.start + COUNT >= found.total;
}

async function turn(pages) {
  const start = Math.max(0, page.start + pages * COUNT);
  if (start === page.start || start >= page.total) return;
  await load(start);
  scrollTo(0, 0);
  focusOn([...page.rows.keys()][0]);
}

function take(rows) {
  for (const row of rows) {
    if (!page.rows.has(row.id) || JSON.stringify(page.rows.get(row.id)) === JSON.stringify(row)) continue;
    page.rows.set(row.id, row);
    redraw(row.id);
  }
  if ($("one").open) showOne();
}

function redraw(id) {
  const hasFocus = cardOf(id).contains(document.activeElement);
  cardOf(id).replaceWith(card(page.rows.get(id)));
  if (hasFocus) cardOf(id).focus({ preventScroll: true });
}

function images(row, size) {
  if (row.state === "gone") return [];
  return ["rgb", "depth"].map((kind) => el("img", { loading: "lazy", src: `/data/${row.id}/${kind}.jpg?size=${size}&v=${row.stamp}`, alt: row.problem || kind }));
}

function remarks(row) {
  const { answer, probability, loss } = row;
  const parts = [answer, probability !== null && percent(probability), loss !== null && `loss ${decimals(loss, 2)}`];
  const isRight = answer === row.label || (answer === "none" && row.label === "_background");
  return [
    [OUT[row.state], "bad"],
    [answer !== null && `answer: ${parts.filter(Boolean).join(" · ")}`, isRight ? "quiet" : "warn"],
    [row.reasons.length && `kept: ${row.reasons.join(", ")}`, "quiet"],
    [row.likeness && `near-duplicate ${decimals(row.likeness, 3)}`, "quiet"],
    [row.issue !== null && `label score ${decimals(row.issue, 2)}`, "warn"],
    [row.problem, "bad"],
  ].filter(([text]) => text);
}

function card(row) {
  const { id } = row;
  const isChosen = page.chosen.has(id);
  const made = el(
    "li",
    { role: "option", tabIndex: id === page.current ? 0 : -1, className: OUT[row.state] ? "out" : "", ariaSelected: String(isChosen) },
    el("div", { className: "images" }, ...images(row, "small")),
    el("div", { className: "top" }, el("b", {}, row.is_review ? `${row.suggestion ?? ""} ?` : row.label), el("input", { type: "checkbox", tabIndex: -1, checked: isChosen, ariaLabel: nameOf(row) })),
    el("p", { className: "quiet" }, `${row.sequence}/${row.name}`),
    ...remarks(row).map(([text, className]) => el("p", { className }, text)),
  );
  made.dataset.id = id;
  made.onfocus = () => focusOn(id, false);
  made.onclick = (event) => {
    focusOn(id);
    if (event.target.type === "checkbox") choose(id);
    else open();
  };
  return made;
}

function focusOn(id, move = true) {
  cardOf(page.current)?.setAttribute("tabindex", -1);
  page.current = id;
  cardOf(id)?.setAttribute("tabindex", 0);
  if (move) cardOf(id)?.focus();
  if ($("one").open) showOne();
}

function choose(id) {
  if (!page.rows.has(id)) return;
  if (!page.chosen.delete(id)) page.chosen.add(id);
  redraw(id);
  done(page.chosen.size ? `${page.chosen.size} selected` : "");
}

function step(by) {
  const ids = [...page.rows.keys()];
  if (ids.length) focusOn(ids[Math.min(Math.max(ids.indexOf(page.current) + by, 0), ids.length - 1)], !$("one").open);
}

function columns() {
  const cards = [...$("grid").children];
  return Math.max(1, cards.filter((one) => one.offsetTop === cards[0].offsetTop).length);
}

function open() {
  if (!page.rows.has(page.current)) return;
  if (!$("one").open) $("one").showModal();
  showOne();
}

async function showOne() {
  const row = page.rows.get(page.current);
  setText("one-name", nameOf(row));
  setText("one-text", remarks(row).map(([text]) => text).join("; "));
  [...$("buttons").children].forEach((one, place) => one.classList.toggle("strong", !row.is_review && page.state.labels[place] === row.label));
  const size = page.isWhole && row.has_whole ? "whole" : "large";
  Object.assign($("whole"), { hidden: !row.has_whole, ariaPressed: size === "whole" });
  const key = [row.id, row.stamp, row.twin, size].join();
  if ($("one").dataset.key === key) return;
  $("one").dataset.key = key;
  $("one-images").replaceChildren(...images(row, size));
  $("twin").hidden = true;
  if (row.twin === null) return;
  const [twin] = (await get("/pairs", { ids: row.twin })).rows;
  if ($("one").dataset.key !== key) return;
  $("twin").hidden = false;
  setText("twin-name", `Near-duplicate: ${nameOf(twin)}`);
  $("twin-images").replaceChildren(...images(twin, "large"));
}

function change(path, value = {}) {
  const ids = !$("one").open && page.chosen.size ? [...page.chosen] : [page.current];
  page.queue = page.queue.then(() => send(path, value, ids));
}

async function send(path, value, ids) {
  const rows = ids.map((id) => page.rows.get(id)).filter((row) => row?.state === "shown");
  const isUndo = path === "/undo";
  if (isUndo ? !page.state.last : !rows.length) return;
  const asked = isUndo ? page.state.last : { items: rows.map((row) => [row.id, row.version]) };
  try {
    const answer = await post(path, { run: page.state.run, ...asked, ...value });
    show("notice", "");
    done(answer.message);
    page.chosen.clear();
    ids.filter((id) => page.rows.has(id)).forEach(redraw);
    take(answer.rows);
    const [first] = answer.rows;
    if (isUndo && !page.rows.has(first?.id)) await load();
    else if (isUndo) focusOn(first.id, !$("one").open);
    else if (ids.length === 1 && ids[0] === page.current) step(1);
  } catch (error) {
    show("notice", error.message);
    done(error.message);
  }
  await poll();
}

function accept() {
  const row = page.rows.get(page.current);
  if (row?.is_review && row.suggestion) change("/label", { label: row.suggestion });
}

function whole() {
  page.isWhole = !page.isWhole;
  if ($("one").open) showOne();
}

const undo = () => change("/undo");
const drop = () => change("/delete");
const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  ArrowUp: () => step($("one").open ? -1 : -columns()),
  ArrowDown: () => step($("one").open ? 1 : columns()),
  n: () => turn(1),
  p: () => turn(-1),
  " ": () => $("one").open || choose(page.current),
  Enter: open,
  Delete: drop,
  d: drop,
  z: undo,
  a: accept,
  w: whole,
};

document.addEventListener("keydown", (event) => {
  const { tagName, type } = event.target;
  if ((/INPUT|SELECT/.test(tagName) && type !== "checkbox") || (tagName === "BUTTON" && /^( |Enter)$/.test(event.key))) return;
  if (event.altKey || event.metaKey || event.ctrlKey || !page.state) return;
  const label = page.state.labels[/^[1-9]$/.test(event.key) ? event.key - 1 : -1];
  const act = label === undefined ? KEYS[event.key] : () => change("/label", { label });
  if (act) event.preventDefault();
  act?.();
});

const click = (selector, act) => all(selector).forEach((one) => one.addEventListener("click", act));
click("#previous", () => turn(-1));
click("#next", () => turn(1));
click("#back", () => step(-1));
click("#on", () => step(1));
click("#whole", whole);
click("#close", () => $("one").close());
click(".accept", accept);
click(".drop", drop);
click(".undo", undo);
for (const id of FILTERS) $(id).addEventListener("change", () => load(0));
$("one").addEventListener("close", () => focusOn(page.current));
$("classes").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = $("other").value.trim();
  if (label) change("/label", { label });
  $("other").value = "";
});
setInterval(() => document.hidden || (page.queue = page.queue.then(poll)), POLL_MS);
page.queue = poll();
