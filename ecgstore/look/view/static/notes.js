// What the reader writes of a record: tags and a comment. Every change is kept at once.

import { byId, carefully, el, fill, put, tell } from "./page.js";

const USUAL = ["check", "wrong label", "noisy", "interesting"];

/** The form for one record. `kept` is called whenever the server has written it down; `tags`: those already used. */
export function noteForm(info, tags, kept) {
  let chosen = [...info.note.tags];
  const said = el("span", { class: "kept", role: "status" });
  const list = el("div", { class: "tags" });
  const comment = el("textarea", { id: "comment", rows: 3, maxlength: 2000, "aria-label": "Comment" });
  comment.value = info.note.comment;
  let wanted = Promise.resolve();

  // One change after the other, so that the last one stays.
  const keep = () => {
    const content = { tags: [...chosen], comment: comment.value };
    wanted = wanted.then(() => carefully(async () => {
      info.note = await put("note", { id: info.record_id }, content);
      said.textContent = info.note.noted_at ? "kept" : "";
      tell("");
      kept();
    }));
  };
  const toggle = (tag) => {
    chosen = chosen.includes(tag) ? chosen.filter((one) => one !== tag) : [...chosen, tag];
    render();
    keep();
  };
  const render = () => {
    const known = [...new Set([...chosen, ...tags.map(([tag]) => tag), ...USUAL])].slice(0, 16);
    fill(list, known.map((tag) => el("button", { type: "button", class: "tag", "aria-pressed": String(chosen.includes(tag)), onclick: () => toggle(tag) }, tag)));
  };
  const another = el("input", { type: "text", id: "new-tag", maxlength: 40, placeholder: "another tag, Enter", "aria-label": "Another tag",
    onkeydown: (event) => {
      const tag = event.target.value.trim().replace(/\s+/g, " ");
      if (event.key !== "Enter" || !tag) return;
      event.preventDefault();
      event.target.value = "";
      if (!chosen.includes(tag)) toggle(tag);
    } });
  comment.addEventListener("change", keep);
  render();
  return el("section", { class: "notes" }, el("h3", {}, "My notes ", said), list, another, comment);
}

export function saveAll() {
  const link = el("a", { href: "/api/notes.csv", download: "notes.csv" });
  byId("help").after(link);
  link.click();
  link.remove();
}
