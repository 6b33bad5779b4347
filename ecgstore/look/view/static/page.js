// Building the page and asking the server. Text from a store only ever becomes text, never HTML.

export const byId = (id) => document.getElementById(id);

/** An element with attributes, listeners (on…) and children; a child that is no element becomes text. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Say in one line what went wrong; an empty text takes it away. */
export function tell(problem) {
  const line = byId("problem");
  line.textContent = problem;
  line.hidden = !problem;
}

async function ask(path, parameters, options = {}) {
  const query = new URLSearchParams(parameters).toString();
  let answer;
  try {
    answer = await fetch(`/api/${path}${query ? `?${query}` : ""}`, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server doesn't answer any more: start `ecgstore view` again");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = text;
  try {
    said = JSON.parse(text).error;
  } catch {
    // It was one line of plain text.
  }
  throw new Error(said);
}

export async function json(path, parameters = {}, options = {}) {
  return (await ask(path, parameters, options)).json();
}

export async function bytes(path, parameters, options = {}) {
  return (await ask(path, parameters, options)).arrayBuffer();
}

export function put(path, parameters, content) {
  const headers = { "content-type": "application/json", "x-ecgstore-view": "1" };
  return json(path, parameters, { method: "PUT", headers, body: JSON.stringify(content) });
}

/** Run what may fail, and tell of it; what was given up for something newer fails silently. */
export async function carefully(work) {
  try {
    const result = await work();
    return result;
  } catch (error) {
    if (error.name !== "AbortError") tell(error.message);
    return undefined;
  }
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const count = (value) => numbers.format(value);

/** Three digits, as a person would write them. */
export function figure(value) {
  if (value === null || value === undefined) return "–";
  const rounded = Number(value.toPrecision(3));
  return Math.abs(rounded) < 1e-4 && rounded !== 0 ? rounded.toExponential(1) : String(rounded).replace("-", "−");
}

/** Seconds in the words of a clock where there are many. */
export function clock(seconds) {
  if (seconds < 120) return `${Number(seconds.toFixed(2))} s`;
  const whole = Math.round(seconds);
  const two = (value) => String(value).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

export const STATES = { m: "measured", d: "derived", a: "absent", b: "bad" };

/** What is unusual of the leads, in words: "V1 absent, III derived". */
export function stateWords(states, leads) {
  if (!/[^m]/.test(states)) return "";
  const of = { a: [], b: [], d: [] };
  [...states].forEach((state, i) => of[state]?.push(leads[i]));
  return Object.entries(of)
    .filter(([, found]) => found.length)
    .map(([state, found]) => `${found.length > 4 ? `${found.length} leads` : found.join(", ")} ${STATES[state]}`)
    .join("; ");
}

export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`ecgstore ${name}`);
    else localStorage.setItem(`ecgstore ${name}`, value);
  } catch {
    // A browser that keeps nothing still shows everything.
  }
}

export function remembered(name) {
  try {
    return localStorage.getItem(`ecgstore ${name}`);
  } catch {
    return null;
  }
}
