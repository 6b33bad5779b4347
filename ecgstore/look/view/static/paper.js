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

/** The layouts that a record of these leads can have; other leads than the twelve stand one below the other. */
export function layoutsOf(leads) {
  return LEADS_12.every((lead) => leads.includes(lead)) ? Object.keys(LAYOUTS) : ["12x1"];
}

/** Millimetres of trace that fit: 10 s of a short record, all there is room for of a long one. */
export function tracesMm(roomMm, speed, lastsS, layout) {
  const fits = Math.max(50, 5 * Math.floor((roomMm - GUTTER_MM - END_MM) / 5));
  const wanted = five(Math.min(lastsS, layout === "12x1" && lastsS > USUAL_S + 0.5 ? Infinity : USUAL_S) * speed);
  return Math.min(fits, Number.isFinite(wanted) ? wanted : fits);
}

/**
 * The strips of a page. Strip: `lead`, seconds `beginS` to `toS` behind the page's beginning, `x`, `y` of 0 mV, `width`.
 * Nothing of a strip is drawn further than `reach` from its 0 mV.
 */
export function geometry(layout, leads, { speed, gain, traces, rhythm }) {
  const columns = layout === "12x1" ? [leads] : layout === "6x2" ? TWO : CLASSIC;
  const withRhythm = layout === "3x4+1";
  const rows = columns[0].length + (withRhythm ? 1 : 0);
  const rowMm = five(Math.min(70, Math.max(15, (layout.startsWith("3x4") ? 3.5 : 2.5) * gain)));
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
    reach: rowMm,
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
