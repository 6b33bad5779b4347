// The beginning: what the address shows, and the keys.

import { change, get, onChange, parameters } from "./address.js";
import * as list from "./list.js";
import { saveAll } from "./notes.js";
import { byId, carefully, count, el, fill, json, remember, remembered } from "./page.js";
import * as record from "./record.js";

const KEYS = [
  ["j k", "next record, record before"], ["Enter", "open the record"], ["Esc", "back to the list"], ["/", "search"], ["n", "write a note"],
  ["← →", "earlier, later; with Shift a whole page"], ["Home End", "begin, end"], ["+ −", "less time, more time; also Ctrl and wheel"],
  ["1 2 3 4", "layouts"], ["s", "25 or 50 mm/s"], ["g", "5, 10, 20 mm/mV"], ["c", "calipers: drag, then drag a line; arrows move the second lines"],
  ["m", "repeat the calipers' distance over the page"], ["r", "raw beneath, or not"], ["b", "beats, or not"], ["p", "print"], ["d", "dark, or light"], ["?", "these keys"],
];

function show() {
  const isRecord = parameters().has("record");
  const isRejects = !isRecord && get("show") === "rejected";
  byId("record").hidden = !isRecord;
  byId("list").hidden = isRecord || isRejects;
  byId("rejects").hidden = !isRejects;
  document.body.classList.toggle("on-paper", isRecord);
  if (isRecord) return record.show();
  record.leave();
  document.title = byId("home").textContent;
  return isRejects ? list.showRejects() : list.show({ isQuiet: wasRecord });
}

let wasRecord = false;

function theme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  byId("theme").textContent = isDark ? "Light" : "Dark";
}

function turnTheme() {
  const isDark = document.documentElement.dataset.theme !== "dark";
  theme(isDark);
  remember("theme", isDark ? "dark" : "light");
}

function back() {
  change({ record: null, at: null });
}

function onPaper(event) {
  const by = event.shiftKey ? 5 : 0.25;
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (arrows && record.measuring()) {
    record.nudge(arrows[0] * by, arrows[1] * by);
    return true;
  }
  const does = {
    j: () => record.stepRecord(1), k: () => record.stepRecord(-1), ArrowLeft: () => record.pan(event.shiftKey ? -1 : -0.2),
    ArrowRight: () => record.pan(event.shiftKey ? 1 : 0.2), Home: () => record.toEnd(false), End: () => record.toEnd(true),
    "+": () => record.zoom(true), "=": () => record.zoom(true), "-": () => record.zoom(false), s: () => record.cycle("speed"), g: () => record.cycle("gain"),
    c: () => record.turnCalipers(), m: () => record.march(), r: () => record.press("raw"), b: () => record.press("beats"), p: () => print(),
    n: () => byId("new-tag")?.focus(), Escape: () => record.clearCalipers() || back(), 1: () => record.setLayout(0), 2: () => record.setLayout(1), 3: () => record.setLayout(2), 4: () => record.setLayout(3),
  }[event.key];
  does?.();
  return Boolean(does);
}

function onList(event) {
  const does = {
    j: () => list.step(1), k: () => list.step(-1), ArrowDown: () => list.step(1), ArrowUp: () => list.step(-1),
    Enter: () => list.selectedId() && list.open(null, list.selectedId()), Escape: () => byId("problem").click(),
  }[event.key];
  does?.();
  return Boolean(does);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const at = event.target;
  const isTyping = at.matches("input:not([type=checkbox]), textarea, select");
  if (isTyping) {
    if (event.key === "Escape") at.blur();
    return;
  }
  if (event.key === "Enter" && at.matches("a, button, summary")) return;
  const isHandled = {
    "?": () => byId("help").showModal(), d: turnTheme,
    "/": () => { if (parameters().has("record")) back(); byId("words")?.focus(); },
  }[event.key];
  if (isHandled) isHandled();
  else if (!(parameters().has("record") ? onPaper(event) : onList(event))) return;
  event.preventDefault();
}

async function begin() {
  const dark = remembered("theme");
  theme(dark ? dark === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", turnTheme);
  byId("to-help").addEventListener("click", () => byId("help").showModal());
  byId("to-notes").addEventListener("click", saveAll);
  byId("back").addEventListener("click", back);
  fill(byId("keys"), KEYS.flatMap(([keys, words]) => [el("dt", {}, keys.split(" ").map((key) => el("kbd", {}, key))), el("dd", {}, words)]));
  const about = await carefully(() => json("about"));
  if (!about) return;
  byId("home").textContent = about.name;
  byId("store-facts").textContent = `${count(about.records)} ${about.records === 1 ? "record" : "records"} · ${about.fs_hz ? `${about.fs_hz} Hz` : "several rates"} · ${about.terms.join("; ")} · ${about.fingerprint.slice(0, 12)}`;
  byId("store-facts").title = `Fingerprint ${about.fingerprint}`;
  byId("to-notes").title = `As CSV; they are kept in ${about.notes}`;
  list.start(about);
  record.start(about, () => {});
  record.startScaling();
  onChange(() => { show(); wasRecord = parameters().has("record"); });
  addEventListener("keydown", onKey);
  wasRecord = parameters().has("record");
  await show();
}

begin();
