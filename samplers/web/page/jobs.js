// The list of jobs with their galleries. Everything that people typed is set as text, never as markup.

export function show(list, jobs, shown, room, act) {
  const items = [...jobs.values()].sort((a, b) => b.number - a.number).map((job) => item(job, shown, room, act));
  const focused = document.activeElement?.dataset?.key;
  list.replaceChildren(...items);
  if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function item(job, shown, room, act) {
  const path = `${room}/jobs/${job.number}`;
  const entry = element("li", { id: `job-${job.number}` });
  const title = element("strong", {}, `Job ${job.number}: ${names[job.kind] ?? job.kind}`);
  const state = element("span", { className: job.state }, ` ${job.state}${job.seconds ? `, ${job.seconds.toFixed(1)} s` : ""}`);
  entry.append(title, state);
  if (job.message) entry.append(element("p", { className: job.state }, job.message));
  const row = element("div", { className: "row" });
  const over = ["done", "failed", "cancelled"].includes(job.state);
  if (!over) {
    const bar = element("progress", { max: 1 });
    if (job.state === "running") bar.value = job.done;
    bar.setAttribute("aria-label", `Progress of job ${job.number}`);
    entry.append(bar);
    row.append(button("Cancel", `cancel-${job.number}`, () => act.cancel(job.number), `Cancel job ${job.number}`));
  } else {
    if (job.state === "done") {
      row.append(link("SDF", `${path}/files/sdf`), link("extended XYZ", `${path}/files/extxyz`));
      if (job.kind === "md") row.append(link("trajectory", `${path}/files/trajectory`));
    }
    if (["generate", "link"].includes(job.kind)) row.append(link("settings", `${path}/files/settings`));
    row.append(button("Delete", `delete-${job.number}`, () => act.remove(job.number), `Delete job ${job.number}`));
  }
  if (job.trace.length > 1) {
    row.append(button("Show course", `course-${job.number}`, () => act.course(job.number), `Show course of job ${job.number}`));
  }
  const gallery = element("div", { className: "gallery" });
  job.molecules.forEach((molecule, index) => gallery.append(card(job, molecule, index, shown, path, act)));
  entry.append(row, gallery);
  return entry;
}

function card(job, molecule, index, shown, path, act) {
  const key = `${job.number}-${index}`;
  const entry = element("div", { className: `card${shown === key ? " shown" : ""}` });
  const picture = element("img", { src: `${path}/molecules/${index}.svg`, alt: `Formula of ${molecule.smiles}`, loading: "lazy" });
  const energy = molecule.energy === null ? "" : `${molecule.energy.toFixed(3)} eV`;
  const filters = molecule.groups.length ? `not passed: ${molecule.groups.join(", ")}` : "passes BRENK and NIH";
  entry.append(picture, element("code", {}, molecule.smiles), element("div", {}, energy), element("div", {}, filters));
  const row = element("div", { className: "row" });
  // Coordinates are written when a job is done.
  const rest = job.state === "done" ? [
    button("Show", `show-${key}`, () => act.show(job.number, index), `Show ${molecule.smiles}`),
    button("Edit", `edit-${key}`, () => act.edit(job.number, index), `Edit ${molecule.smiles}`),
  ] : [];
  row.append(...rest);
  entry.append(row);
  return entry;
}

const names = { generate: "generate", link: "link", hydrogenate: "hydrogenate", relax: "relax", md: "molecular dynamics" };

export function element(kind, properties = {}, words = null) {
  const made = Object.assign(document.createElement(kind), properties);
  if (words !== null) made.textContent = words;
  return made;
}

export function button(words, key, action, name = null) {
  const made = element("button", { type: "button", onclick: action }, words);
  made.dataset.key = key;
  if (name) made.setAttribute("aria-label", name);
  return made;
}

function link(words, href) {
  const made = element("a", { href, download: "" }, words);
  made.dataset.key = href;
  return made;
}
