// Drawing one page of ECG paper as SVG, whose unit is the millimetre.

import { svg } from "./page.js";
import { GUTTER_MM, MAX_REST_MV, PULSE_MM } from "./paper.js";

const REMARKS = { d: "derived", a: "absent", b: "bad" };

/** Samples as /api/signal sends them: the head in JSON, then float32. `at(lead, column, k)` is mV. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const values = new Float32Array(buffer, 4 + length);
  const columnS = head.samples_per_column / head.fs_hz;
  return { ...head, values_mv: values, columnS, stopS: head.start_s + head.columns * columnS };
}

/** What a lead reaches, where it rests, over all that was loaded. */
export function extremes(traces) {
  const per = traces.columns * traces.values;
  return traces.leads.map((_, lead) => {
    const its = traces.values_mv.subarray(lead * per, (lead + 1) * per).filter(Number.isFinite);
    if (!its.length) return { low: NaN, high: NaN, rest: 0 };
    const sorted = its.sort();
    const middle = sorted[Math.floor(sorted.length / 2)];
    return { low: sorted[0], high: sorted[sorted.length - 1], rest: Math.abs(middle) > MAX_REST_MV ? middle : 0 };
  });
}

/** The path of one lead between two times, and the stretches where nothing was recorded; both in millimetres. */
function path(traces, lead, strip, page, atS, rest) {
  const { columns, values, columnS } = traces;
  const per = columns * values;
  const first = Math.max(0, Math.floor((atS + strip.beginS - traces.start_s) / columnS + 1e-6));
  const last = Math.min(columns - 1, Math.ceil((atS + strip.toS - traces.start_s) / columnS - 1e-6));
  const parts = [];
  const gaps = [];
  let isOn = false;
  let gapX = null;
  for (let column = first; column <= last; column += 1) {
    const x = strip.x + (traces.start_s + column * columnS - atS - strip.beginS) * page.speed;
    const at = lead * per + column * values;
    if (Number.isNaN(traces.values_mv[at])) {
      isOn = false;
      gapX ??= x;
      continue;
    }
    if (gapX !== null) {
      gaps.push([gapX, x]);
      gapX = null;
    }
    for (let k = 0; k < values; k += 1) {
      const y = strip.y - (traces.values_mv[at + k] - rest) * page.gain;
      parts.push(`${isOn ? "L" : "M"}${x.toFixed(3)} ${Math.max(-9999, Math.min(9999, y)).toFixed(3)}`);
      isOn = true;
    }
  }
  if (gapX !== null) gaps.push([gapX, strip.x + strip.width]);
  return { d: parts.join(""), gaps };
}

function grid(page) {
  const lines = (every) => {
    const parts = [];
    for (let x = 0; x <= page.width + 1e-6; x += every) parts.push(`M${x} 0V${page.gridBottom}`);
    for (let y = 0; y <= page.gridBottom + 1e-6; y += every) parts.push(`M0 ${y}H${page.width}`);
    return parts.join("");
  };
  return [svg("path", { class: "minor", d: lines(1) }), svg("path", { class: "major", d: lines(5) })];
}

function pulse(y, gain) {
  const x = 5;
  const d = `M${x - 2} ${y}H${x}V${y - gain}H${x + PULSE_MM}V${y}H${x + PULSE_MM + 2}`;
  return svg("path", { class: "pulse", d });
}

const mv = (value) => `${value > 0 ? "+" : ""}${value.toFixed(1)}`.replace("-", "−");

function label(strip, page, info, lead, reached, isUncalibrated) {
  const remarks = [];
  const state = info.lead_states[lead];
  if (REMARKS[state]) remarks.push(REMARKS[state]);
  if (isUncalibrated) remarks.push("not calibrated");
  if (reached.rest) remarks.push(`rests at ${mv(reached.rest)} mV`);
  const most = page.reach / page.gain;
  if (reached.high - reached.rest > most || reached.low - reached.rest < -most) {
    remarks.push(`cut off here: ${mv(reached.low)} to ${mv(reached.high)} mV`);
  }
  const text = svg("text", { class: `label state-${state}`, x: strip.x + 1.5, y: strip.y - page.rowMm / 2 + 5.5 }, strip.lead);
  if (remarks.length) text.append(svg("tspan", { class: "remark", dx: 1.2 }, remarks.join(", ")));
  return text;
}

function annotations(beats, page, atS) {
  const group = svg("g", { class: "beats" });
  const columns = page.strips.filter((strip) => strip.isRhythm || page.strips.every((one) => !one.isRhythm));
  const tops = columns.filter((strip) => strip.isRhythm || strip.y === page.rows[0]);
  for (const beat of beats) {
    const strip = tops.find((one) => beat.time_s - atS >= one.beginS && beat.time_s - atS < one.toS);
    if (!strip) continue;
    const x = strip.x + (beat.time_s - atS - strip.beginS) * page.speed;
    const y = strip.y - page.rowMm / 2 + (strip.isRhythm ? 9 : 0);
    const mark = svg("g", { class: beat.is_ectopic ? "beat odd" : "beat" },
      svg("title", {}, [beat.title || beat.symbol, beat.note].filter(Boolean).join(" ")),
      svg("path", { d: `M${x.toFixed(2)} ${y + 0.8}V${y + 3}` }),
      svg("text", { x: x.toFixed(2), y }, beat.note ? `${beat.symbol} ${beat.note}` : beat.symbol));
    group.append(mark);
  }
  return group;
}

/** Seconds below the last row, and where the columns of a layout begin. */
function times(page, atS) {
  const group = svg("g", { class: "times" });
  const steps = [0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400];
  const step = steps.find((one) => one * page.speed >= 20) ?? 28800;
  const y = page.gridBottom + 4;
  for (let at = Math.ceil(atS / step - 1e-6) * step; at <= atS + page.spanS + 1e-6; at += step) {
    const x = GUTTER_MM + (at - atS) * page.speed;
    const words = at < 120 ? `${Number(at.toFixed(1))} s` : clockOf(at);
    group.append(svg("text", { x: x.toFixed(2), y }, words));
  }
  return group;
}

function clockOf(at) {
  const two = (value) => String(value).padStart(2, "0");
  return `${Math.floor(at / 3600)}:${two(Math.floor(at / 60) % 60)}:${two(Math.round(at) % 60)}`;
}

/**
 * One page. `layers`: the processed traces, and the raw ones beneath or null; `reached` of each lead of the processed
 * ones; `info`: the record; `beats`, or null.
 */
export function draw(page, { traces, raw, reached, info, beats, atS, uncalibrated, title }) {
  const root = svg("svg", { class: "ecg", viewBox: `0 0 ${page.width} ${page.height}`, role: "img", "aria-label": title });
  const defs = svg("defs");
  root.append(defs, svg("rect", { class: "sheet-of-paper", width: page.width, height: page.gridBottom }), ...grid(page));
  page.rows.forEach((y) => root.append(pulse(y, page.gain)));
  const labels = svg("g");
  page.strips.forEach((strip, i) => {
    const lead = info.leads.indexOf(strip.lead);
    const top = Math.max(0, strip.y - page.reach);
    const bottom = Math.min(page.gridBottom, strip.y + page.reach);
    defs.append(svg("clipPath", { id: `cut-${i}` }, svg("rect", { x: strip.x, y: top, width: strip.width, height: bottom - top })));
    const group = svg("g", { "clip-path": `url(#cut-${i})` });
    const state = info.lead_states[lead];
    const { rest } = reached[lead];
    if (raw && raw.leads.includes(strip.lead)) {
      const beneath = path(raw, raw.leads.indexOf(strip.lead), strip, page, atS, rest);
      group.append(svg("path", { class: "trace raw", d: beneath.d }));
    }
    const { d, gaps } = path(traces, traces.leads.indexOf(strip.lead), strip, page, atS, rest);
    for (const [from, to] of gaps) {
      const gap = svg("rect", { class: "gap", x: from, y: strip.y - page.rowMm * 0.35, width: Math.max(0, to - from), height: page.rowMm * 0.7 });
      gap.append(svg("title", {}, "not recorded"));
      group.append(gap);
    }
    const trace = svg("path", { class: `trace state-${state}`, d, "data-lead": strip.lead, "data-x": strip.x, "data-y": strip.y, "data-from": atS + strip.beginS });
    group.append(trace);
    root.append(group);
    if (strip.x > GUTTER_MM) root.append(svg("path", { class: "divide", d: `M${strip.x} ${strip.y - 2.5}v5` }));
    labels.append(label(strip, page, info, lead, reached[lead], uncalibrated.includes(strip.lead)));
  });
  root.append(labels, times(page, atS));
  if (beats) root.append(annotations(beats, page, atS));
  return root;
}

/** A piece of one lead, small: its lowest and highest within each column, 1.5 mV up and down, cut off beyond. */
export function band(traces, lead, rest, widthMm, heightMm, lastsS) {
  const per = traces.columns * traces.values;
  const y = (value) => Math.min(heightMm, Math.max(0, (heightMm / 2) * (1 - (value - rest) / 1.5))).toFixed(2);
  const parts = [];
  for (let column = 0; column < traces.columns; column += 1) {
    const at = lead * per + column * traces.values;
    const bottom = traces.values_mv[at];
    if (Number.isNaN(bottom)) continue;
    const x = (((traces.start_s + column * traces.columnS) / lastsS) * widthMm).toFixed(2);
    parts.push(`M${x} ${y(bottom)}V${y(traces.values_mv[at + traces.values - 1])}`);
  }
  return svg("path", { class: "band", d: parts.join("") });
}
