// Where everything stands on the paper, in millimetres: pure functions, no drawing.

export const LEADS_12 = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"];
export const LAYOUTS = { "3x4+1": "3 × 4 + 1", "3x4": "3 × 4", "6x2": "6 × 2", "12x1": "12 × 1" };
export const SPEEDS = [25, 50];
export const GAINS = [2.5, 5, 10, 20, 40];

/** Room left of the traces for the calibration pulse; the pulse is 5 mm wide. */
export const GUTTER_MM = 15;
export const PULSE_MM = 5;
const END_MM = 5;
const TOP_MM = 10;
const FOOT_MM = 10;
export const USUAL_S = 10;
/** A lead that rests further than this from 0 mV is moved to the middle of its row, and its label says so. */
export const MAX_REST_MV = 1;

const CLASSIC = [["I", "II", "III"], ["aVR", "aVL", "aVF"], ["V1", "V2", "V3"], ["V4", "V5", "V6"]];
const TWO = [LEADS_12.slice(0, 6), LEADS_12.slice(6)];

const five = (mm) => Math.max(5, 5 * Math.ceil(mm / 5 - 1e-9));

/** The layouts that a record of these leads can have, the usual one first; what has few of the twelve stands in rows. */
export function layoutsOf(leads, states) {
  if (!LEADS_12.every((lead) => leads.includes(lead))) return ["12x1"];
  const names = Object.keys(LAYOUTS);
  return recorded(leads, states).length < 6 ? ["12x1", ...names.filter((name) => name !== "12x1")] : names;
}

/** The leads that are not absent; all, where every one is. */
export function recorded(leads, states) {
  const found = leads.filter((_, i) => states[i] !== "a");
  return found.length ? found : leads;
}

/** What a page of several columns has at least, also where the screen is narrower: four times 2.5 s at 25 mm/s. */
const LEAST_MM = 250;

/** Millimetres of trace that fit: 10 s of a short record, all there is room for of a long one in rows. */
export function tracesMm(roomMm, speed, lastsS, layout) {
  const fits = Math.max(layout === "12x1" ? 50 : LEAST_MM, 5 * Math.floor((roomMm - GUTTER_MM - END_MM) / 5));
  const wanted = five(Math.min(lastsS, layout === "12x1" && lastsS > USUAL_S + 0.5 ? Infinity : USUAL_S) * speed);
  return Math.min(fits, Number.isFinite(wanted) ? wanted : fits);
}

/**
 * The strips of a page. Strip: `lead`, seconds `beginS` to `toS` behind the page's beginning, `x`, `y` of 0 mV, `width`.
 * Nothing of a strip is drawn further than `reach` from its 0 mV. `mostMm`: how high the page may be.
 */
export function geometry(layout, leads, { speed, gain, traces, rhythm, mostMm = Infinity }) {
  const columns = layout === "12x1" ? [leads] : layout === "6x2" ? TWO : CLASSIC;
  const withRhythm = layout === "3x4+1";
  const rows = columns[0].length + (withRhythm ? 1 : 0);
  const usualMm = five(Math.min(70, Math.max(15, (layout.startsWith("3x4") ? 3.5 : 2.5) * gain)));
  // On a sheet of paper rows move together; the gain stays what it is.
  const rowMm = Math.min(usualMm, Math.floor((mostMm - TOP_MM - FOOT_MM) / rows));
  const cell = traces / columns.length;
  const at = (row) => TOP_MM + (row + 0.5) * rowMm;
  const strips = columns.flatMap((column, i) =>
    column.map((lead, row) => ({
      lead, beginS: (i * cell) / speed, toS: ((i + 1) * cell) / speed, x: GUTTER_MM + i * cell, y: at(row), width: cell,
    })),
  );
  if (withRhythm) {
    strips.push({ lead: rhythm, beginS: 0, toS: traces / speed, x: GUTTER_MM, y: at(rows - 1), width: traces, isRhythm: true });
  }
  return {
    width: GUTTER_MM + traces + END_MM,
    height: TOP_MM + rows * rowMm + FOOT_MM,
    rowMm,
    reach: usualMm,
    gridBottom: TOP_MM + rows * rowMm + TOP_MM / 2,
    rows: Array.from({ length: rows }, (_, row) => at(row)),
    strips,
    spanS: traces / speed,
    traces,
    speed,
    gain,
  };
}

/** The speed one step in or out: halves and doubles, as far as the whole record or 400 mm/s. */
export function otherSpeed(speed, isIn, traces, lastsS) {
  const next = isIn ? speed * 2 : speed / 2;
  const least = traces / Math.max(lastsS, 0.1);
  return Math.min(400, Math.max(next, Math.min(least, 25)));
}
