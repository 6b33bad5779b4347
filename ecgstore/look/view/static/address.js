// The state of the page is its address: filters, order and page of the list; record, time, layout, speed and gain.

const OF_RECORD = ["record", "at", "layout", "speed", "gain"];
const OF_LIST = ["offset", "show"];
const listeners = [];

export const parameters = () => new URLSearchParams(location.search);

export const get = (name, otherwise = "") => parameters().get(name) ?? otherwise;

/** What the list is asked: all but how the page looks. */
export function question() {
  const asked = parameters();
  [...OF_RECORD, ...OF_LIST].forEach((name) => asked.delete(name));
  return asked;
}

/** Change some parameters: a text, a list of texts, or null to take one away. `keep`: the back button forgets it. */
export function change(changes, { keep = false, quiet = false } = {}) {
  const asked = parameters();
  for (const [name, value] of Object.entries(changes)) {
    asked.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== "") asked.append(name, one);
  }
  go(asked, { keep, quiet });
}

export function go(asked, { keep = false, quiet = false } = {}) {
  const text = asked.toString();
  const address = text ? `/?${text}` : "/";
  if (address === location.pathname + location.search) return;
  history[keep ? "replaceState" : "pushState"](null, "", address);
  if (!quiet) tellAll();
}

/** The address at which the list begins anew with these filters. */
export function filtersOnly(asked) {
  [...OF_RECORD, ...OF_LIST].forEach((name) => asked.delete(name));
  return asked;
}

export const onChange = (listener) => listeners.push(listener);
const tellAll = () => listeners.forEach((listener) => listener());
addEventListener("popstate", tellAll);
