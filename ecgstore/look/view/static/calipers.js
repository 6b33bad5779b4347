// Calipers: two upright lines measure time, two level ones voltage. They stand in millimetres of paper.

import { svg } from "./page.js";

const GRIP_MM = 2.5;

/** What lies between two points of a page: ms, beats per minute, mV; no mV where no lead reaches so far: they are of two. */
export function measure({ x1, y1, x2, y2 }, page) {
  const seconds = Math.abs(x2 - x1) / page.speed;
  const isOfOneLead = Math.abs(y1 - y2) <= 2 * page.reach;
  return { ms: seconds * 1000, bpm: seconds > 0.05 ? 60 / seconds : null, mv: isOfOneLead ? (y1 - y2) / page.gain : null };
}

export function words({ ms, bpm, mv }) {
  const rate = bpm === null ? "" : ` · ${Math.round(bpm)} /min`;
  const voltage = mv === null ? "" : ` · ${mv.toFixed(2).replace("-", "−")} mV`;
  return `${ms < 10000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`}${rate}${voltage}`;
}

export class Calipers {
  /** `said` is called with the words of what is measured, or with an empty text. */
  constructor(said) {
    this.said = said;
    this.isOn = false;
    this.isMarching = false;
    this.at = null;
    this.held = null;
  }

  turn(isOn) {
    this.isOn = isOn;
    if (!isOn) this.clear();
  }

  clear() {
    this.at = null;
    this.held = null;
    this.render();
  }

  /** Stand on a page that was drawn anew. */
  onto(root, page) {
    this.root = root;
    this.page = page;
    this.render();
  }

  down(x, y) {
    const near = (one, other) => Math.abs(one - other) < GRIP_MM;
    const { at } = this;
    this.held = null;
    if (at) {
      const inside = (value, one, other) => value > Math.min(one, other) - GRIP_MM && value < Math.max(one, other) + GRIP_MM;
      if (inside(y, at.y1, at.y2) || Math.abs(at.y1 - at.y2) < GRIP_MM) {
        if (near(x, at.x2)) this.held = ["x2"];
        else if (near(x, at.x1)) this.held = ["x1"];
      }
      if (inside(x, at.x1, at.x2)) {
        if (near(y, at.y2)) this.held = [...(this.held ?? []), "y2"];
        else if (near(y, at.y1)) this.held = [...(this.held ?? []), "y1"];
      }
    }
    if (!this.held) {
      this.at = { x1: x, y1: y, x2: x, y2: y };
      this.held = ["x2", "y2"];
    }
    this.render();
  }

  move(x, y) {
    if (!this.held) return;
    for (const name of this.held) this.at[name] = name[0] === "x" ? x : y;
    this.render();
  }

  up() {
    this.held = null;
  }

  /** Move the second lines by so many millimetres; the first time they stand in the middle of the page. */
  nudge(dx, dy) {
    if (!this.at) {
      const x = this.page.width / 2;
      const y = this.page.rows[0];
      this.at = { x1: x, y1: y, x2: x + this.page.speed * 0.2, y2: y - this.page.gain };
    } else {
      this.at.x2 += dx;
      this.at.y2 += dy;
    }
    this.render();
  }

  march() {
    this.isMarching = !this.isMarching;
    this.render();
  }

  render() {
    if (!this.root) return;
    this.root.querySelector(".calipers")?.remove();
    if (!this.at) {
      this.said("");
      return;
    }
    const { x1, y1, x2, y2 } = this.at;
    const { width, gridBottom } = this.page;
    const text = words(measure(this.at, this.page));
    const low = Math.max(0, Math.min(y1, y2) - 8);
    const high = Math.min(gridBottom, Math.max(y1, y2) + 8);
    const group = svg("g", { class: "calipers", "aria-hidden": "true" });
    group.append(svg("rect", { class: "between", x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) }));
    if (this.isMarching && Math.abs(x2 - x1) > 1) {
      const step = Math.abs(x2 - x1);
      for (let x = x1 - Math.floor(x1 / step) * step; x <= width; x += step) {
        group.append(svg("path", { class: "march", d: `M${x.toFixed(3)} ${low}V${high}` }));
      }
    }
    for (const x of [x1, x2]) group.append(svg("path", { class: "line", d: `M${x.toFixed(3)} ${low}V${high}` }));
    for (const y of [y1, y2]) group.append(svg("path", { class: "line", d: `M${Math.min(x1, x2) - 3} ${y.toFixed(3)}H${Math.max(x1, x2) + 3}` }));
    const boxWidth = 3.6 + text.length * 2;
    const left = Math.max(1, Math.min(width - boxWidth - 1, Math.max(x1, x2) + 2));
    const top = Math.max(1, Math.min(y1, y2) - 7);
    group.append(svg("rect", { class: "said", x: left, y: top, width: boxWidth, height: 5.6, rx: 1 }), svg("text", { x: left + 1.6, y: top + 4 }, text));
    this.root.append(group);
    this.said(text);
  }
}
