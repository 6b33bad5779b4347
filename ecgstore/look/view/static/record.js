// One record on paper: what is loaded, what is seen of it, and what stands beside it.

import { change, get, question } from "./address.js";
import { Calipers } from "./calipers.js";
import { band, decode, draw, extremes } from "./draw.js";
import { noteForm } from "./notes.js";
import { byId, bytes, carefully, clock, count, el, figure, fill, json, remember, remembered, stateWords, STATES, svg, tell } from "./page.js";
import { GAINS, geometry, GUTTER_MM, LAYOUTS, layoutsOf, otherSpeed, recorded, SPEEDS, tracesMm } from "./paper.js";

const CSS_PX_PER_MM = 96 / 25.4;
/** Millimetres of trace on a printed A4 page in landscape, and how high the paper on it may be. */
const PRINTED_MM = 250;
const PRINTED_HEIGHT_MM = 165;
/** More samples than this per lead come as the envelope of their extremes. */
const MOST_SAMPLES = 12000;
const OVERVIEW_MM = [250, 12];

let about = null;
let info = null;
let layers = null;
let rests = null;
let beats = null;
let page = null;
let placed = { before: null, behind: null };
let showsRaw = true;
let showsBeats = true;
let loading = null;
let turn = 0;
let isPrinting = false;
let onNoted = () => {};
const calipers = new Calipers((text) => { byId("measured").textContent = text; });

export const pixelsPerMm = () => Number(remembered("pixels")) || CSS_PX_PER_MM;

// --- what is chosen --------------------------------------------------------------------------------------------------

const atS = () => Math.max(0, Number(get("at", "0")) || 0);
const layouts = () => layoutsOf(info.leads, info.lead_states);
const layout = () => (layouts().includes(get("layout")) ? get("layout") : layouts()[0]);
const speed = () => Math.min(400, Number(get("speed")) || SPEEDS[0]);
const gain = () => (GAINS.includes(Number(get("gain"))) ? Number(get("gain")) : 10);

function rhythmLead() {
  const leads = recorded(info.leads, info.lead_states);
  return leads.includes("II") ? "II" : leads[0];
}

function planned(roomMm, mostMm = Infinity) {
  const traces = tracesMm(roomMm, speed(), info.duration_s, layout());
  const leads = layout() === "12x1" ? recorded(info.leads, info.lead_states) : info.leads;
  return geometry(layout(), leads, { speed: speed(), gain: gain(), traces, rhythm: rhythmLead(), mostMm });
}

const roomMm = () => byId("desk").clientWidth / pixelsPerMm();

// --- opening ---------------------------------------------------------------------------------------------------------

export function start(facts, noted) {
  about = facts;
  onNoted = noted;
  const on = (id, does) => byId(id).addEventListener("click", does);
  const chosen = (id, does) => byId(id).addEventListener("change", (event) => does(event.target.value));
  chosen("layout", (value) => change({ layout: value }, { keep: true }));
  chosen("speed", (value) => zoomTo(Number(value)));
  chosen("gain", (value) => change({ gain: value }, { keep: true }));
  on("in", () => zoom(true));
  on("out", () => zoom(false));
  on("left", () => pan(-0.5));
  on("right", () => pan(0.5));
  on("calipers", turnCalipers);
  on("raw", () => { showsRaw = turned("raw"); load(); });
  on("beats", () => { showsBeats = turned("beats"); render(); });
  on("print", () => print());
  on("before", () => stepRecord(-1));
  on("behind", () => stepRecord(1));
  listenToPaper();
  new ResizeObserver(() => info && !isPrinting && !byId("record").hidden && page && planned(roomMm()).width !== page.width && load()).observe(byId("desk"));
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
}

function printing(isNow) {
  isPrinting = isNow;
  if (info && isNow) render(PRINTED_MM + 20, PRINTED_HEIGHT_MM);
  else if (info) render();
}

function turned(id) {
  const isOn = byId(id).getAttribute("aria-pressed") !== "true";
  byId(id).setAttribute("aria-pressed", String(isOn));
  return isOn;
}

/** Show what the address says: another record, or the same one drawn in another way. */
export async function show() {
  const id = get("record");
  if (info?.record_id !== id) {
    const mine = (turn += 1);
    const found = await carefully(() => json("record", { id }));
    if (!found || mine !== turn) return;
    tell("");
    info = { ...found, leads: about.leads };
    layers = null;
    rests = null;
    beats = null;
    calipers.clear();
    drawSide();
    byId("overview").hidden = true;
    byId("record-id").textContent = `Record ${info.record_id}`;
    document.title = `${info.record_id} – ${about.name}`;
    place();
  }
  drawTools();
  await load();
}

export function leave() {
  info = null;
  turn += 1;
}

export const isNoteAt = () => byId("comment");

async function place() {
  const id = info.record_id;
  const found = await carefully(() => json("beside", [...question(), ["id", id]]));
  if (!found || info?.record_id !== id) return;
  placed = found;
  byId("place").textContent = found.at === null ? "not in this list" : `${count(found.at + 1)} of ${count(found.total)}`;
  byId("before").disabled = !found.before;
  byId("behind").disabled = !found.behind;
}

export function stepRecord(by) {
  const id = by > 0 ? placed.behind : placed.before;
  if (id) change({ record: id, at: null }, { keep: true });
}

function drawTools() {
  const options = (id, values, now) => fill(byId(id), values.map(([value, words]) => el("option", { value, selected: String(value) === String(now) }, words)));
  const rows = recorded(info.leads, info.lead_states).length;
  options("layout", layouts().map((name) => [name, name === "12x1" ? `${rows} × 1` : LAYOUTS[name]]), layout());
  const speeds = SPEEDS.includes(speed()) ? SPEEDS : [...SPEEDS, speed()];
  options("speed", speeds.map((one) => [one, `${Number(one.toPrecision(3))} mm/s`]), speed());
  options("gain", GAINS.map((one) => [one, `${one} mm/mV`]), gain());
  byId("raw").hidden = !info.raw;
  byId("beats").hidden = !info.beats;
}

// --- samples ---------------------------------------------------------------------------------------------------------

/** Load what is seen and half as much on both sides, unless it is here already; then draw. */
async function load() {
  if (!info) return;
  page = planned(roomMm());
  const latest = Math.max(0, info.duration_s - page.spanS);
  const from = Math.min(atS(), latest);
  const to = Math.min(info.duration_s, from + Math.max(page.spanS, PRINTED_MM / speed()));
  if (!holds(from, to)) {
    loading?.abort();
    loading = new AbortController();
    const { signal } = loading;
    const margin = page.spanS / 2;
    const window = { id: info.record_id, start: Math.max(0, from - margin), stop: to + margin };
    const n = (window.stop - window.start) * info.fs_hz;
    const columns = n <= MOST_SAMPLES ? Math.ceil(n) + 2 : Math.min(8000, Math.round(2 * page.traces * pixelsPerMm() * devicePixelRatio));
    const asked = (which) => bytes("signal", { ...window, columns, which }, { signal }).then(decode);
    const found = await carefully(() => Promise.all([
      asked("processed"),
      info.raw && showsRaw ? asked("raw") : null,
      info.beats ? json("beats", { id: info.record_id, start: window.start, stop: window.stop }, { signal }) : null,
    ]));
    if (!found) return;
    layers = { traces: found[0], raw: found[1], from: window.start, to: Math.min(info.duration_s, window.stop), speed: speed() };
    beats = found[2];
    rests ??= extremes(layers.traces).map((one) => one.rest);
    layers.reached = extremes(layers.traces).map((one, lead) => ({ ...one, rest: rests[lead] }));
  }
  render();
  drawOverview();
}

function holds(from, to) {
  const isRawThere = !info.raw || !showsRaw || layers?.raw;
  const isFine = layers && (layers.traces.values === 1 || layers.speed === speed());
  return isFine && isRawThere && layers.from <= from + 1e-9 && layers.to >= to - 1e-9;
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function render(room = roomMm(), mostMm = Infinity) {
  if (!layers) return;
  page = planned(room, mostMm);
  const from = Math.min(atS(), Math.max(0, info.duration_s - page.spanS));
  page.beginS = from;
  const uncalibrated = notCalibrated();
  const root = draw(page, {
    traces: layers.traces, raw: showsRaw ? layers.raw : null, reached: layers.reached, info, atS: from, uncalibrated,
    beats: showsBeats && beats ? beats.beats : null, title: titleOf(from),
  });
  root.style.setProperty("--width", `${page.width}mm`);
  root.style.width = `${page.width * pixelsPerMm()}px`;
  fill(byId("paper"), root);
  calipers.onto(root, page);
  const parts = [
    `${Number(speed().toPrecision(3))} mm/s`, `${gain()} mm/mV`, `${info.fs_hz} Hz`, ...about.filters,
    layers.traces.values === 2 ? `lowest and highest of each ${count(layers.traces.samples_per_column)} samples` : "",
    info.duration_s > page.spanS + 0.5 / info.fs_hz ? `${clock(from)} to ${clock(Math.min(info.duration_s, from + page.spanS))} of ${clock(info.duration_s)}` : clock(info.duration_s),
    layers.raw && showsRaw ? "raw beneath" : "",
    beats && beats.total > beats.beats.length ? `the first ${count(beats.beats.length)} of ${count(beats.total)} annotations` : "",
  ];
  byId("shown").textContent = parts.filter(Boolean).join(" · ");
  byId("paper").classList.toggle("fits", info.duration_s <= page.spanS + 1e-6);
  byId("left").disabled = from <= 0;
  byId("right").disabled = from + page.spanS >= info.duration_s - 1e-6;
}

function titleOf(from) {
  return `ECG of record ${info.record_id}, ${info.leads.length} leads, from ${clock(from)}, ${page.speed} mm/s, ${page.gain} mm/mV`;
}

function notCalibrated() {
  const [, names] = /not calibrated, so that only counts are known: ([^;]+)/.exec(info.warnings ?? "") ?? [];
  return names ? names.split(", ") : [];
}

async function drawOverview() {
  const holder = byId("overview");
  const isLong = info.duration_s > page.spanS + 0.5 / info.fs_hz && info.duration_s > 12;
  holder.hidden = !isLong;
  if (!isLong) return;
  const [width, height] = OVERVIEW_MM;
  const x = (at) => (at / info.duration_s) * width;
  const windowed = () => svg("rect", { class: "window", x: x(page.beginS), y: 0, width: Math.max(0.6, x(page.spanS)), height });
  const before = holder.querySelector("svg");
  if (before && holder.dataset.id === info.record_id) {
    before.querySelector(".window").replaceWith(windowed());
    return;
  }
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `The whole record, ${clock(info.duration_s)}; the frame is what is shown above` }, windowed());
  fill(holder, root);
  holder.dataset.id = info.record_id;
  const jump = (event) => {
    const box = root.getBoundingClientRect();
    moveTo(((event.clientX - box.left) / box.width) * info.duration_s - page.spanS / 2);
  };
  root.addEventListener("pointerdown", (event) => { root.setPointerCapture(event.pointerId); jump(event); });
  root.addEventListener("pointermove", (event) => event.buttons && jump(event));
  // Piece by piece, so that the paper never waits for it.
  const id = info.record_id;
  const lead = info.leads.indexOf(rhythmLead());
  const pieceS = Math.max(info.duration_s / 16, 600);
  for (let begin = 0; begin < info.duration_s - 1e-6; begin += pieceS) {
    const stop = Math.min(info.duration_s, begin + pieceS);
    const columns = Math.ceil((1600 * (stop - begin)) / info.duration_s);
    const traces = await carefully(async () => decode(await bytes("signal", { id, start: begin, stop, columns })));
    if (!traces || info?.record_id !== id) return;
    root.prepend(band(traces, lead, rests?.[lead] ?? 0, width, height, info.duration_s));
  }
}

// --- moving ----------------------------------------------------------------------------------------------------------

export function moveTo(at) {
  const latest = Math.max(0, info.duration_s - page.spanS);
  const wanted = Math.min(latest, Math.max(0, at));
  calipers.clear();
  change({ at: wanted ? String(Number(wanted.toFixed(3))) : null }, { keep: true });
}

export const pan = (spans) => moveTo(page.beginS + spans * page.spanS);
export const toEnd = (isEnd) => moveTo(isEnd ? info.duration_s : 0);

export function zoom(isIn, around = null) {
  zoomTo(otherSpeed(speed(), isIn, page.traces, info.duration_s), around);
}

function zoomTo(next, around = null) {
  const at = around ?? page.beginS;
  const from = Math.max(0, at - ((at - page.beginS) * speed()) / next);
  calipers.clear();
  change({ speed: next === SPEEDS[0] ? null : String(Number(next.toPrecision(6))), at: from ? String(Number(from.toFixed(3))) : null }, { keep: true });
}

export function cycle(name) {
  if (name === "speed") zoomTo(speed() === 25 ? 50 : 25);
  else change({ gain: String({ 5: 10, 10: 20 }[gain()] ?? 5) }, { keep: true });
}

export function setLayout(i) {
  const name = layouts()[i];
  if (name) change({ layout: name }, { keep: true });
}

export function turnCalipers() {
  calipers.turn(turned("calipers"));
  byId("paper").classList.toggle("measuring", calipers.isOn);
}

export const press = (id) => !byId(id).hidden && byId(id).click();
export const measuring = () => calipers.isOn;
export const nudge = (dx, dy) => calipers.nudge(dx, dy);
export const march = () => calipers.isOn && calipers.march();
export const clearCalipers = () => (calipers.at ? (calipers.clear(), true) : false);

function listenToPaper() {
  const paper = byId("paper");
  let dragged = null;
  const point = (event) => {
    const root = paper.querySelector("svg");
    if (!root) return null;
    const box = root.getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * page.width, y: ((event.clientY - box.top) / box.height) * page.height };
  };
  paper.addEventListener("pointerdown", (event) => {
    const at = event.button === 0 && point(event);
    if (!at || !page) return;
    paper.setPointerCapture(event.pointerId);
    if (calipers.isOn) calipers.down(at.x, at.y);
    else dragged = { x: at.x, beginS: page.beginS };
  });
  paper.addEventListener("pointermove", (event) => {
    const at = point(event);
    if (!at || !page) return;
    if (calipers.isOn) calipers.move(at.x, at.y);
    else if (dragged && Math.abs(at.x - dragged.x) > 1 && info.duration_s > page.spanS) moveTo(dragged.beginS - (at.x - dragged.x) / page.speed);
    byId("under").textContent = valueAt(at);
  });
  const end = () => { calipers.up(); dragged = null; };
  paper.addEventListener("pointerup", end);
  paper.addEventListener("pointercancel", end);
  paper.addEventListener("pointerleave", () => { byId("under").textContent = ""; });
  paper.addEventListener("wheel", (event) => {
    if (!page || (!event.ctrlKey && info.duration_s <= page.spanS) || !(event.ctrlKey || event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) return;
    event.preventDefault();
    if (event.ctrlKey) zoom(event.deltaY < 0, page.beginS + Math.max(0, point(event).x - GUTTER_MM) / page.speed);
    else moveTo(page.beginS + (event.deltaX || event.deltaY) / pixelsPerMm() / page.speed);
  }, { passive: false });
}

/** The sample under the pointer: of the strip whose row it is in. */
function valueAt({ x, y }) {
  const strip = page.strips.find((one) => x >= one.x && x < one.x + one.width && Math.abs(y - one.y) <= page.rowMm / 2);
  if (!strip || !layers || layers.traces.values !== 1) return "";
  const at = page.beginS + strip.beginS + (x - strip.x) / page.speed;
  const column = Math.round((at - layers.traces.start_s) / layers.traces.columnS);
  const lead = layers.traces.leads.indexOf(strip.lead);
  const value = column >= 0 && column < layers.traces.columns ? layers.traces.values_mv[lead * layers.traces.columns + column] : NaN;
  const words = Number.isNaN(value) ? "not recorded" : `${value.toFixed(3).replace("-", "−")} mV`;
  return `${strip.lead} at ${at.toFixed(3)} s: ${words}`;
}

// --- beside it -------------------------------------------------------------------------------------------------------

function drawSide() {
  const person = [info.age_years === null ? null : `${Math.round(info.age_years)} years`, info.sex, info.fold === null ? null : `fold ${info.fold}`, info.site, info.source];
  byId("person").textContent = [...person, info.statements.map((one) => one.title || one.code).join(", ")].filter(Boolean).join(" · ");
  fill(byId("cautions"), about.cautions.map((text) => el("span", {}, text)));
  byId("cautions").hidden = !about.cautions.length;
  const section = (title, ...content) => el("section", {}, el("h3", {}, title), ...content);
  fill(byId("side"),
    section("Statements", statementTable()),
    info.predictions?.length ? section("Model", predictionTable()) : about.predictions ? section("Model", el("p", {}, "Nothing was predicted of this record.")) : null,
    (info.suspects || info.warnings || stateWords(info.lead_states, info.leads)) && section("To be noted",
      el("ul", {}, [...(info.suspects || "").split("; "), ...(info.warnings || "").split("; "), ...stateWords(info.lead_states, info.leads).split("; ")].filter(Boolean).map((one) => el("li", {}, one)))),
    noteFormOf(),
    section("Record", el("dl", {}, facts().flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))),
    leadTable() && el("details", {}, el("summary", {}, "Quality of each lead"), leadTable()));
}

function noteFormOf() {
  const holder = el("div");
  carefully(async () => {
    const mine = info;
    const { tag } = await json("counts", question());
    if (mine === info) holder.append(noteForm(info, tag, onNoted));
  });
  return holder;
}

function statementTable() {
  if (!info.statements.length) return el("p", {}, "None.");
  const said = new Map((info.predictions ?? []).map((one) => [one.code, one.probability]));
  const isSaid = info.predictions !== null;
  const head = el("tr", {}, el("th", { scope: "col" }, "Code"), el("th", { scope: "col" }, "Meaning"), el("th", { scope: "col", class: "n", title: "How sure the source is" }, "Sure"), isSaid && el("th", { scope: "col", class: "n" }, "Model"));
  const rows = info.statements.map((one) => el("tr", {},
    el("th", { scope: "row", title: one.system }, one.code), el("td", {}, one.title || one.system),
    el("td", { class: "n" }, one.likelihood === null ? "–" : `${figure(one.likelihood)} %`),
    isSaid && el("td", { class: said.has(one.name) && said.get(one.name) < 0.5 ? "n far" : "n" }, said.has(one.name) ? `${Math.round(said.get(one.name) * 100)} %` : "–")));
  return el("table", {}, el("thead", {}, head), el("tbody", {}, rows));
}

function predictionTable() {
  const rows = info.predictions.slice(0, 20).map((one) => {
    const isFar = one.stated !== null && Math.abs((one.stated ? 1 : 0) - one.probability) >= 0.5;
    const bar = el("meter", { min: 0, max: 1, value: one.probability.toFixed(4), "aria-label": `${one.class}: ${Math.round(one.probability * 100)} %` });
    return el("tr", {}, el("th", { scope: "row" }, one.class), el("td", {}, bar), el("td", { class: "n" }, `${Math.round(one.probability * 100)} %`),
      el("td", { class: isFar ? "far" : "" }, one.stated === null ? "no code of the store" : one.stated ? "stated" : "not stated"));
  });
  return el("table", {}, el("tbody", {}, rows));
}

const SHARES = ["Flat", "Clipped", "Missing"];

function facts() {
  const rate = info.source_fs_hz && info.source_fs_hz !== info.fs_hz ? `${info.fs_hz} Hz, recorded at ${info.source_fs_hz}` : `${info.fs_hz} Hz`;
  const found = [["Length", clock(info.duration_s)], ["Rate", rate], ["Source", info.source], ["Site", info.site], ["Fold", info.fold], ["Patient", info.patient_key], ["Annotations", info.beats ? count(info.beats) : null]];
  const share = (value) => `${figure(100 * value)} %`;
  const measures = info.measures.map(([title, value, unit]) => [title, value === null ? null : SHARES.includes(title) ? share(value) : `${figure(value)}${unit ? ` ${unit}` : ""}`]);
  return [...found, ...measures].filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [name, String(value)]);
}

const LEAD_COLUMNS = { hf_noise_mv: "Noise", mains_mv: "Mains", baseline_mv: "Wander", range_mv: "Range", flat_fraction: "Flat" };

function leadTable() {
  const names = Object.keys(LEAD_COLUMNS).filter((name) => info.lead_measures[name]);
  if (!names.length) return null;
  const rows = info.leads.map((lead, i) => el("tr", {}, el("th", { scope: "row" }, lead), el("td", { class: `state-${info.lead_states[i]}` }, STATES[info.lead_states[i]]),
    names.map((name) => el("td", { class: "n" }, figure(info.lead_measures[name][i])))));
  const head = el("tr", {}, el("th", { scope: "col" }, "Lead"), el("th", { scope: "col" }, "State"), names.map((name) => el("th", { scope: "col", class: "n" }, LEAD_COLUMNS[name])));
  return el("table", { class: "small" }, el("thead", {}, head), el("tbody", {}, rows));
}

// --- true scale ------------------------------------------------------------------------------------------------------

export function startScaling() {
  const slider = byId("pixels");
  const set = (value) => {
    byId("ruler").style.width = `${85.6 * value}px`;
    byId("pixels-said").textContent = value.toFixed(2);
    slider.value = value;
  };
  byId("scale").addEventListener("click", () => { set(pixelsPerMm()); byId("scaling").showModal(); });
  slider.addEventListener("input", () => { set(Number(slider.value)); remember("pixels", slider.value); });
  byId("unscale").addEventListener("click", () => { remember("pixels", null); set(CSS_PX_PER_MM); });
  byId("scaling").addEventListener("close", () => { calipers.clear(); load(); });
}
