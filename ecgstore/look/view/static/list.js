// The list: filters, counts, the table, its order and its pages. Whatever is chosen stands in the address.

import { change, filtersOnly, get, go, parameters, question } from "./address.js";
import { byId, carefully, clock, count, el, figure, fill, json, stateWords, STATES, tell } from "./page.js";

const PAGE = 100;
const MOST_CODES = 14;
const WORDS = { fold: "Fold", source: "Source", site: "Site", sex: "Sex" };
const FIXED_SORTS = [["", "As in the store"], ["record_id", "Record"], ["fold", "Fold"], ["lead_states", "Lead states"], ["suspects", "Suspects"]];

let about = null;
let counts = null;
let shown = { records: [], offset: 0, total: 0 };
let selected = 0;
let codeWords = "";
let newest = 0;

const titles = () => new Map(about.codes.map(([name, title]) => [name, title]));
export const selectedId = () => shown.records[selected]?.record_id;
export const noted = () => show({ isQuiet: true });

export function start(facts) {
  about = facts;
  // It can be typed into before anything is counted.
  fill(byId("filters"), wordsField());
  const sorts = [...FIXED_SORTS, ...about.numbers.map(([name, title]) => [name, title])];
  fill(byId("sort"), sorts.map(([name, title]) => el("option", { value: name }, title)));
  byId("sort").addEventListener("change", () => {
    const name = byId("sort").value;
    // What is sorted by is looked at from its bad end, but for age and name.
    change({ sort: name && /_mv|fraction|disagreement/.test(name) ? `-${name}` : name, offset: null });
  });
  byId("to-filters").addEventListener("click", showFilters);
  byId("turn").addEventListener("click", () => {
    const sort = get("sort");
    change({ sort: sort.startsWith("-") ? sort.slice(1) : `-${sort || "record_id"}`, offset: null });
  });
}

/** On a narrow screen filters stand behind a button. */
function showFilters() {
  const button = byId("to-filters");
  button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
}

/** Ask anew, and show: the page of the table first, what it counts after it. */
export async function show({ isQuiet = false } = {}) {
  const turn = (newest += 1);
  const asked = question();
  const offset = get("offset", "0");
  const page = await carefully(() => json("records", [...asked, ["offset", offset], ["limit", PAGE]]));
  if (!page || turn !== newest) return;
  tell("");
  shown = page;
  selected = isQuiet ? Math.min(selected, Math.max(0, page.records.length - 1)) : 0;
  drawTable();
  drawPager();
  drawChips();
  byId("sort").value = get("sort").replace(/^-/, "");
  byId("turn").textContent = get("sort").startsWith("-") ? "↓" : "↑";
  byId("turn").setAttribute("aria-label", get("sort").startsWith("-") ? "Falling; turn the order" : "Rising; turn the order");
  byId("total").textContent = page.total === page.of ? `${count(page.of)} ${page.of === 1 ? "record" : "records"}` : `${count(page.total)} of ${count(page.of)} records`;
  const found = await carefully(() => json("counts", asked));
  if (!found || turn !== newest) return;
  counts = found;
  drawFilters();
}

// --- the table -------------------------------------------------------------------------------------------------------

function columns() {
  const sort = get("sort").replace(/^-/, "");
  const found = [
    { name: "record_id", title: "Record", cell: (one) => el("a", { href: addressOf(one.record_id), onclick: (event) => open(event, one.record_id) }, one.record_id) },
    { name: "age_years", title: "Age", number: true, cell: (one) => (one.age_years === null ? "" : String(Math.round(one.age_years))) },
    { name: "sex", title: "Sex", cell: (one) => one.sex ?? "" },
    { name: "fold", title: "Fold", number: true, cell: (one) => one.fold ?? "" },
  ];
  if (about.has_sources) found.push({ name: "source", title: "Source", cell: (one) => one.source });
  if (about.has_site) found.push({ name: "site", title: "Site", cell: (one) => one.site ?? "" });
  found.push({ title: "Statements", cell: (one) => statements(one), wide: true });
  if (about.predictions) found.push({ name: "disagreement", title: "Model", cell: (one) => worst(one.worst) });
  found.push({ title: "To be noted", cell: (one) => remarks(one) });
  const measure = about.numbers.find(([name]) => name === sort && !found.some((column) => column.name === name));
  if (measure) {
    const [name, title, unit] = measure;
    const words = name === "duration_s" ? (one) => clock(one.duration_s) : (one) => figure(one[name]);
    found.push({ name, title: unit && name !== "duration_s" ? `${title} (${unit})` : title, number: true, cell: words });
  }
  return found;
}

function statements(one) {
  return one.codes.map(([code, title], i) => [
    i ? el("span", { class: "comma" }, ", ") : null,
    el("span", { class: "code", title: title || code }, el("b", {}, code), title ? ` ${title}` : ""),
  ]).flat();
}

function worst(said) {
  if (!said) return "";
  const isFar = Math.abs((said.stated ? 1 : 0) - said.probability) >= 0.5;
  return el("span", { class: isFar ? "model far" : "model" }, `${said.class} ${Math.round(said.probability * 100)} %, ${said.stated ? "stated" : "not stated"}`);
}

function remarks(one) {
  const found = [];
  const states = stateWords(one.lead_states, about.leads);
  if (states) found.push(el("span", { class: /b/.test(one.lead_states) ? "flag bad" : "flag" }, states));
  if (one.suspects) found.push(el("span", { class: "flag suspect" }, one.suspects));
  if (one.warnings) found.push(el("span", { class: "flag", title: one.warnings }, one.warnings.length > 60 ? `${one.warnings.slice(0, 60)}…` : one.warnings));
  return [...found, ...one.tags.map((tag) => el("span", { class: "tag" }, tag))];
}

function drawTable() {
  const its = columns();
  const sort = get("sort");
  const head = its.map((column) => {
    const isSorted = column.name && sort.replace(/^-/, "") === column.name;
    const order = isSorted ? (sort.startsWith("-") ? "descending" : "ascending") : null;
    // Disagreement is looked at from its far end first.
    const next = order === "ascending" || (column.name === "disagreement" && !order) ? `-${column.name}` : column.name;
    const button = column.name
      ? el("button", { type: "button", onclick: () => change({ sort: next, offset: null }) },
          column.title, isSorted ? el("span", { "aria-hidden": "true" }, order === "ascending" ? " ↑" : " ↓") : "")
      : column.title;
    return el("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": order }, button);
  });
  const body = shown.records.map((one, i) => {
    const row = el("tr", { "aria-current": i === selected ? "true" : null, onclick: () => select(i), ondblclick: (event) => open(event, one.record_id) });
    its.forEach((column, j) => {
      const kind = j === 0 ? "th" : "td";
      row.append(fill(el(kind, { scope: j === 0 ? "row" : null, class: column.number ? "n" : column.wide ? "statements" : null }), column.cell(one)));
    });
    return row;
  });
  const nothing = el("tr", {}, el("td", { colspan: its.length, class: "nothing" }, "No record is so. Take a filter away."));
  fill(byId("rows"), el("caption", { class: "unseen" }, "Records"), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body.length ? body : nothing));
}

export function select(i) {
  const rows = byId("rows").tBodies[0]?.rows ?? [];
  if (!shown.records.length) return;
  rows[selected]?.removeAttribute("aria-current");
  selected = Math.max(0, Math.min(shown.records.length - 1, i));
  rows[selected].setAttribute("aria-current", "true");
  rows[selected].scrollIntoView({ block: "nearest" });
}

/** One record up or down, over the end of the page too. */
export async function step(by) {
  const next = selected + by;
  if (next >= 0 && next < shown.records.length) return select(next);
  const offset = shown.offset + (by > 0 ? PAGE : -PAGE);
  if (offset < 0 || offset >= shown.total) return undefined;
  change({ offset: offset ? String(offset) : null }, { quiet: true });
  await show();
  return select(by > 0 ? 0 : PAGE - 1);
}

function addressOf(id) {
  const asked = parameters();
  asked.set("record", id);
  return `/?${asked}`;
}

export function open(event, id) {
  if (event?.metaKey || event?.ctrlKey || event?.button === 1) return;
  event?.preventDefault();
  change({ record: id, at: null });
}

function drawPager() {
  const { total, offset } = shown;
  const last = Math.floor(Math.max(0, total - 1) / PAGE) * PAGE;
  const button = (words, to, isOff) => el("button", { type: "button", disabled: isOff, onclick: () => change({ offset: to ? String(to) : null }) }, words);
  fill(byId("pager"),
    total > PAGE && [button("First", 0, offset === 0), button("Back", Math.max(0, offset - PAGE), offset === 0),
      el("span", {}, `${count(offset + 1)} to ${count(Math.min(total, offset + PAGE))} of ${count(total)}`),
      button("Next", offset + PAGE, offset >= last), button("Last", last, offset >= last)]);
}

// --- filters ---------------------------------------------------------------------------------------------------------

function drawChips() {
  const known = titles();
  const chips = [];
  const names = new Map(about.numbers.map(([name, title]) => [name, title]));
  for (const [name, value] of question()) {
    if (name === "sort") continue;
    const code = value.slice(value.indexOf(":") + 1);
    const words = {
      code: () => `${code} ${known.get(value) ?? ""}`, without: () => `without ${code}`, words: () => `“${value}”`,
      lead: () => `${value.split(":")[0] === "any" ? "any lead" : value.split(":")[0]} ${STATES[value.split(":")[1]] ?? ""}`,
      tag: () => (value === "any" ? "with a note" : `tag ${value}`),
      suspects: () => (value === "any" ? "suspects" : "no suspects"), warnings: () => (value === "any" ? "warnings" : "no warnings"),
    }[name] ?? (() => `${WORDS[name] ?? names.get(name) ?? name}: ${value.replace("..", " to ")}`);
    const off = () => {
      const asked = filtersOnly(parameters());
      const kept = [...asked].filter(([one, its]) => one !== name || its !== value);
      go(new URLSearchParams(kept));
    };
    chips.push(el("li", {}, el("button", { type: "button", title: "Take this filter away", onclick: off }, words().trim(), el("span", { "aria-hidden": "true" }, " ×"))));
  }
  if (chips.length > 1) chips.push(el("li", {}, el("button", { type: "button", class: "plain", onclick: () => go(new URLSearchParams()) }, "All away")));
  fill(byId("chips"), chips);
}

function toggle(name, value, isOn) {
  const now = parameters().getAll(name).filter((one) => one !== value);
  change({ [name]: isOn ? [...now, value] : now, offset: null });
}

function box(name, value, words, n, title = "") {
  const isOn = parameters().getAll(name).includes(value);
  const input = el("input", { type: "checkbox", name, value, onchange: (event) => toggle(name, value, event.target.checked) });
  input.checked = isOn;
  return el("label", { class: "box", title: title || null }, input, el("span", { class: "words" }, words), el("span", { class: "count" }, n === null ? "" : count(n)));
}

function group(title, ...content) {
  return el("fieldset", {}, el("legend", {}, title), ...content);
}

function field(title, input) {
  return el("label", { class: "field" }, el("span", {}, title), input);
}

function wordsField() {
  const input = el("input", { type: "search", id: "words", name: "words", value: get("words"), placeholder: "id, code, \"two words\", note", autocomplete: "off", maxlength: 200 });
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => change({ words: input.value.trim(), offset: null }, { keep: true }), 200);
  });
  return field("Search (/)", input);
}

function codeBoxes() {
  const n = new Map(counts.code);
  const chosen = [...parameters().getAll("code"), ...parameters().getAll("without")];
  const wanted = codeWords.toLowerCase();
  const all = about.codes.filter(([name, title]) => `${name} ${title}`.toLowerCase().includes(wanted));
  const order = [...all].sort((a, b) => chosen.includes(b[0]) - chosen.includes(a[0]) || (n.get(b[0]) ?? 0) - (n.get(a[0]) ?? 0));
  const boxes = order.slice(0, Math.max(MOST_CODES, chosen.length)).map(([name, title]) => {
    const code = name.slice(name.indexOf(":") + 1);
    const words = [el("b", {}, code), title ? ` ${title}` : ""];
    const isNot = parameters().getAll("without").includes(name);
    const not = el("button", { type: "button", class: "not", "aria-pressed": String(isNot), title: `Only records without ${code}`, "aria-label": `Without ${code}`, onclick: () => toggle("without", name, !isNot) }, "not");
    return el("div", { class: "pair" }, box("code", name, words, n.get(name) ?? 0, `${name} ${title}`), not);
  });
  const more = order.length - boxes.length;
  return [...boxes, more > 0 && el("p", { class: "more" }, `${count(more)} more: type above`)];
}

function codeGroup() {
  const list = el("div", { class: "codes" }, codeBoxes());
  const input = el("input", { type: "search", value: codeWords, placeholder: "AFIB, bundle branch …", "aria-label": "Find a statement", id: "find-code", autocomplete: "off",
    oninput: (event) => { codeWords = event.target.value; fill(list, codeBoxes()); } });
  return group("Statements", input, list);
}

function range(name, title, unit) {
  const [low, high] = get(name, "..").split("..");
  const input = (value, words, other) => el("input", { type: "text", inputmode: "decimal", value, "aria-label": `${title}, ${words}`, placeholder: words,
    onchange: (event) => { const pair = other(event.target.value.trim().replace(",", ".")); change({ [name]: pair === ".." ? null : pair, offset: null }); } });
  return el("div", { class: "range" }, el("span", {}, unit ? `${title} (${unit})` : title), input(low, "from", (value) => `${value}..${high}`), input(high, "to", (value) => `${low}..${value}`));
}

function leadFilter() {
  const [lead, state] = get("lead", ":").split(":");
  const leads = el("select", { "aria-label": "Lead" }, ["any", ...about.leads].map((one) => el("option", { value: one, selected: one === lead }, one === "any" ? "any lead" : one)));
  const states = el("select", { "aria-label": "State" }, ["", "d", "a", "b", "m"].map((one) => el("option", { value: one, selected: one === state }, STATES[one] ?? "whatever")));
  const apply = () => change({ lead: states.value ? `${leads.value}:${states.value}` : null, offset: null });
  leads.addEventListener("change", apply);
  states.addEventListener("change", apply);
  return el("div", { class: "two" }, leads, states);
}

function choice(name, title, words) {
  const now = get(name);
  const options = [["", "whatever"], ["any", words[0]], ["none", words[1]]];
  return field(title, el("select", { onchange: (event) => change({ [name]: event.target.value, offset: null }) }, options.map(([value, text]) => el("option", { value, selected: value === now }, text))));
}

function drawFilters() {
  const form = byId("filters");
  const focused = document.activeElement;
  const isTyping = form.contains(focused) && focused.id === "words";
  const focusKey = form.contains(focused) ? [focused.id, focused.name, focused.value, focused.getAttribute("aria-label")].join("|") : null;
  const openNow = form.querySelector("details")?.open ?? about.numbers.some(([name]) => name !== "age_years" && parameters().has(name));
  const values = (name) => counts[name].map(([value, n]) => box(name, value, value === "none" ? "not stated" : value, n));
  const facets = ["sex", "fold", "source", "site"].filter((name) => counts[name].length > 1 || parameters().has(name));
  const ages = about.numbers.filter(([name]) => name === "age_years");
  const measures = about.numbers.filter(([name]) => name !== "age_years");
  const words = isTyping ? focused.closest("label") : wordsField();
  const content = [
    codeGroup(),
    ...ages.map((one) => group("Age", range(...one))),
    ...facets.map((name) => group(WORDS[name], el("div", { class: name === "fold" ? "folds" : "" }, values(name)))),
    counts.tag.length > 0 && group("Notes", box("tag", "any", "with a note", null), counts.tag.map(([tag, n]) => box("tag", tag, tag, n))),
    group("Leads", leadFilter()),
    group("To be noted", choice("suspects", "Suspects", ["some", "none"]), choice("warnings", "Warnings", ["some", "none"])),
    el("details", { open: openNow }, el("summary", {}, "Quality and length"), measures.map((one) => range(...one))),
    about.rejected > 0 && el("p", {}, el("a", { href: "/?show=rejected", id: "to-rejects" }, `${count(about.rejected)} records were left out: see why`)),
  ];
  if (isTyping) {
    // The field that is being typed into stays the same one.
    [...form.children].filter((child) => child !== words).forEach((child) => child.remove());
    form.append(...content.filter(Boolean));
    return;
  }
  fill(form, words, content);
  const again = focusKey && [...form.querySelectorAll("input, select, button")].find((one) => [one.id, one.name, one.value, one.getAttribute("aria-label")].join("|") === focusKey);
  again?.focus();
}

// --- what was left out -----------------------------------------------------------------------------------------------

export async function showRejects() {
  const offset = Number(get("offset", "0"));
  const found = await carefully(() => json("rejected", { offset, limit: PAGE }));
  if (!found) return;
  const rows = found.rejected.map((one) => el("tr", {}, el("th", { scope: "row" }, one.record_id), el("td", {}, one.meaning || one.reason), el("td", {}, one.detail)));
  const button = (words, to, isOff) => el("button", { type: "button", disabled: isOff, onclick: () => change({ offset: to ? String(to) : null }) }, words);
  fill(byId("rejects"),
    el("h2", {}, `${count(found.total)} records were left out`), el("p", {}, el("a", { href: "/" }, "Back to the records")),
    el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Records that were left out" },
      el("table", {}, el("thead", {}, el("tr", {}, ["Record", "Reason", "Detail"].map((one) => el("th", { scope: "col" }, one)))), el("tbody", {}, rows))),
    found.total > PAGE && el("div", { class: "pager" }, button("Back", Math.max(0, offset - PAGE), offset === 0), button("Next", offset + PAGE, offset + PAGE >= found.total)));
}
