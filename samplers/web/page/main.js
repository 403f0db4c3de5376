// The page: its state is the server's; what is clicked here is sent there, and what comes back is shown.

import { call, enter } from "./api.js";
import { button, element, show } from "./jobs.js";
import { plot } from "./plot.js";
import { Viewer } from "./viewer.js";

const get = (id) => document.getElementById(id);
const viewer = new Viewer(get("viewer"));
window.halberdViewer = viewer; // for tests, and for people with a console
const jobs = new Map();
let room = null, source = null, drawn = [], fragment = null, course = null, shown = null, fresh = true;

async function guarded(action) {
  try {
    get("message").hidden = true;
    return await action();
  } catch (error) {
    get("message").textContent = error.message;
    get("message").hidden = false;
    get("message").scrollIntoView({ block: "nearest" });
    return null;
  }
}

// Shape -----------------------------------------------------------------------------------------------------------

function draw(next, startNew = false) {
  drawn = next;
  fresh = startNew;
  showDrawn();
  send();
}

function showDrawn() {
  viewer.setDrawn(drawn);
  get("drawn").replaceChildren(...drawn.map((each, k) => {
    const many = each.points.length === 1 ? "1 point" : `${each.points.length} points`;
    const entry = element("li", {}, each.kind === "curve" ? `curve, ${many}` : `${each.kind}, radius ${each.radius} Å`);
    const erase = button("Delete", `drawn-${k}`, () => {
      draw(drawn.filter((_, other) => other !== k), true);
      (document.querySelector(`[data-key="drawn-${Math.min(k, drawn.length - 1)}"]`) ?? get("new-curve")).focus();
    });
    erase.setAttribute("aria-label", `Delete ${each.kind} ${k + 1}`);
    entry.append(erase);
    return entry;
  }));
}

viewer.onPlace = (place) => {
  const last = drawn.at(-1);
  const joins = !fresh && last?.kind === "curve";
  draw(joins ? [...drawn.slice(0, -1), { ...last, points: [...last.points, place] }] : [...drawn, curve([place])]);
};
const curve = (points) => ({ kind: "curve", points, radius: 0, normal: [0, 0, 1] });

get("new-curve").onclick = () => { fresh = true; get("caption").textContent = "The next point begins a new curve."; };
get("undo").onclick = () => {
  const last = drawn.at(-1);
  if (!last) return;
  const rest = drawn.slice(0, -1);
  draw(last.kind === "curve" && last.points.length > 1 ? [...rest, { ...last, points: last.points.slice(0, -1) }] : rest);
};
get("clear").onclick = () => draw([], true);
get("place").onsubmit = (event) => {
  event.preventDefault();
  const centre = ["x", "y", "z"].map((name) => Number(get(name).value)), size = Number(get("size").value);
  const what = get("what").value;
  if (what === "point") return viewer.onPlace(centre);
  const ends = [-0.5, 0.5].map((part) => [centre[0] + part * size, centre[1], centre[2]]);
  const made = what === "line" ? curve(ends) : { kind: what, points: [centre], radius: size, normal: [0, 0, 1] };
  draw([...drawn, made], true);
};

// Fragment --------------------------------------------------------------------------------------------------------

function showFragment() {
  viewer.setFragment(fragment);
  const heavy = fragment ? fragment.symbols.flatMap((symbol, k) => (symbol === "H" ? [] : [k])) : [];
  get("fragment").textContent = fragment
    ? `${fragment.name}: ${fragment.symbols.length} atoms, ${fragment.kept.length} of ${heavy.length} heavy ones kept` +
      (fragment.anchors.length ? `, ${fragment.anchors.length} to grow from` : "") +
      (fragment.bonds ? "." : "; bonds are not known, hydrogenate it first.")
    : "None.";
  get("atoms").replaceChildren(...heavy.map((k) => {
    const made = button(`${fragment.symbols[k]}${k + 1}`, `atom-${k}`, () => choose(k));
    if (!fragment.kept.includes(k)) made.classList.add("dropped");
    if (fragment.anchors.includes(k)) made.classList.add("anchor");
    const words = fragment.anchors.includes(k) ? "kept, grow from here" : fragment.kept.includes(k) ? "kept" : "dropped";
    made.setAttribute("aria-label", `Atom ${k + 1}, ${fragment.symbols[k]}, ${words}`);
    return made;
  }));
}

function choose(k) {
  if (fragment.symbols[k] === "H") return;
  const without = (list) => list.filter((each) => each !== k);
  if (viewer.tool === "grow") {
    const marked = fragment.anchors.includes(k);
    fragment.anchors = marked ? without(fragment.anchors) : [...fragment.anchors, k];
    if (!marked && !fragment.kept.includes(k)) fragment.kept = [...fragment.kept, k];
  } else {
    const kept = fragment.kept.includes(k);
    fragment.kept = kept ? without(fragment.kept) : [...fragment.kept, k];
    if (kept) fragment.anchors = without(fragment.anchors);
  }
  keepFocus(showFragment);
  send();
}

function keepFocus(action) {
  const key = document.activeElement?.dataset?.key;
  action();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

viewer.onAtom = choose;
get("upload").onchange = () => guarded(async () => {
  const [file] = get("upload").files;
  if (!file) return;
  get("upload").value = "";
  scene(await call("POST", `${room}/fragment?name=${encodeURIComponent(file.name)}`, file));
  viewer.fit();
});
get("discard").onclick = () => guarded(async () => scene(await call("DELETE", `${room}/fragment`)));
get("keep-all").onclick = () => {
  if (!fragment) return;
  fragment.kept = fragment.symbols.flatMap((symbol, k) => (symbol === "H" ? [] : [k]));
  showFragment();
  send();
};

// What is drawn and chosen goes to the server once it rests ----------------------------------------------------------

let waiting = null, sending = 0, sent = Promise.resolve(true);
function send() {
  clearTimeout(waiting);
  waiting = setTimeout(() => flush(), 100);
}

addEventListener("pagehide", () => { if (waiting !== null) flush(true); });

function flush(leaving = false) {
  if (waiting === null) return sent;
  clearTimeout(waiting);
  waiting = null;
  sending += 1;
  sent = sent.then(async () => { // one after the other, or an older one could win
    const body = { drawn, form: form() };
    if (fragment) Object.assign(body, { kept: fragment.kept, anchors: fragment.anchors });
    const found = await guarded(() => call("PUT", `${room}/scene`, body, leaving));
    sending -= 1;
    if (found) scene(found);
    else if (!leaving) await back();
    return found !== null;
  });
  return sent;
}

// What the server refused is taken back, so that what is shown is what jobs are made of.
async function back() {
  try {
    scene((await call("GET", room)).scene);
  } catch { /* it does not answer at all: said already */ }
}

function form() {
  const elements = [...document.querySelectorAll("[name=element]:checked")].map((each) => each.value);
  return { n: Number(get("n").value), heavy_atoms: get("heavy").value.trim(), seed: Number(get("seed").value), elements };
}

function scene(found) {
  if (waiting !== null || sending) return; // what is drawn here is newer
  if (!document.activeElement?.matches("#n, #heavy, #seed, [name=element]")) fill(found.form);
  if (JSON.stringify([found.drawn, found.fragment]) === JSON.stringify([drawn, fragment])) return;
  drawn = found.drawn;
  fragment = found.fragment;
  keepFocus(() => { showDrawn(); showFragment(); });
}

function fill(found) {
  if (!found.n) return;
  get("n").value = found.n;
  get("heavy").value = found.heavy_atoms;
  get("seed").value = found.seed;
  for (const each of document.querySelectorAll("[name=element]")) each.checked = found.elements.includes(each.value);
}

for (const input of document.querySelectorAll("#n, #heavy, #seed, [name=element]")) input.onchange = send;
for (const input of document.querySelectorAll("[name=tool]")) {
  input.onchange = () => {
    viewer.tool = input.value;
    if (input.value !== "draw") viewer.setMade(null);
    get("caption").textContent = {
      draw: "Click into the scene to draw points; they are joined to a curve. Drag to turn it.",
      keep: "Click heavy atoms of the fragment, or their names on the right, to keep or drop them.",
      grow: "Click the heavy atoms that new ones shall be bonded to; mark two to link them.",
    }[input.value];
  };
}
get("fit").onclick = () => viewer.fit();
get("hide").onclick = () => { viewer.setMade(null); shown = null; showJobs(); };

// Jobs ------------------------------------------------------------------------------------------------------------

for (const each of document.querySelectorAll("[data-kind]")) {
  each.onclick = async () => {
    if (!(await flush())) return; // what was drawn was refused, which is said
    await guarded(async () => {
      const kind = each.dataset.kind;
      const made = await call("POST", `${room}/jobs`, { kind, ...form() });
      course = made.number;
      shown = null;
      worked.set(made.number, places());
    });
  };
}

const act = {
  cancel: (number) => guarded(() => call("POST", `${room}/jobs/${number}/cancel`)),
  remove: (number) => guarded(() => call("DELETE", `${room}/jobs/${number}`)),
  course: (number) => { course = number; showCourse(); },
  show: (number, index) => guarded(async () => {
    viewer.setMade(await call("GET", `${room}/jobs/${number}/molecules/${index}`));
    shown = `${number}-${index}`;
    get("caption").textContent = `Job ${number}, molecule ${index + 1}: ${jobs.get(number).molecules[index].smiles}`;
    showJobs();
  }),
  edit: (number, index) => guarded(async () => {
    viewer.setMade(null);
    scene(await call("POST", `${room}/jobs/${number}/molecules/${index}/edit`));
  }),
};

function showJobs() {
  get("nothing").hidden = jobs.size > 0;
  show(get("jobs"), jobs, shown, room, act);
}
function showCourse() { plot(get("plot"), jobs.get(course)); }

// Where the fragment's atoms were when a job was given them.
const worked = new Map();
const places = () => JSON.stringify(fragment?.positions ?? null);

function took(job) {
  const before = jobs.get(job.number);
  jobs.set(job.number, job);
  const ended = before && before.state !== "done" && job.state === "done";
  if (ended && job.number === course && job.molecules.length) {
    // Fragments go on from what became of them; of the others the first is shown.
    const same = worked.get(job.number) === places();
    if (["hydrogenate", "relax"].includes(job.kind) && same) act.edit(job.number, 0);
    else act.show(job.number, 0);
  }
}

const on = {
  state: (event) => {
    jobs.clear();
    for (const job of event.jobs) jobs.set(job.number, job);
    if (waiting === null && !sending) fill(event.scene.form);
    course ??= event.jobs.filter((job) => job.trace.length).at(-1)?.number ?? null;
    scene(event.scene);
    showJobs();
    showCourse();
  },
  scene: (event) => scene(event.scene),
  job: (event) => { took(event.job); showJobs(); if (event.job.number === course) showCourse(); },
  removed: (event) => { jobs.delete(event.number); showJobs(); },
  frame: (event) => {
    jobs.get(event.number)?.trace.push(event.point);
    if (event.number !== course) return;
    viewer.setMade(event);
    const [first, second] = event.point.map((x) => (x === null ? "-" : x.toPrecision(3)));
    get("reading").textContent = jobs.get(event.number)?.kind === "md" ? `${first} ps, ${second} eV` : `σ ${first} Å, similarity ${second}`;
    showCourse();
  },
};

async function start(another = false) {
  source?.close();
  room = await enter(another);
  jobs.clear();
  [course, shown, fresh] = [null, null, true];
  viewer.setMade(null);
  source = new EventSource(`${room}/events`);
  source.onmessage = (message) => { const event = JSON.parse(message.data); on[event.type](event); };
  source.onerror = () => { get("status").textContent = "The server does not answer; trying again."; };
  source.onopen = watch;
}

let watching = null;
async function watch() {
  let limits;
  try {
    limits = await call("GET", "limits");
  } catch {
    return; // told by the stream of events
  }
  get("status").textContent = limits.ready ? `Ready. Model ${limits.model}.` : `Loading model ${limits.model} …`;
  get("n").max = limits.most.molecules;
  clearTimeout(watching);
  watching = setTimeout(watch, limits.ready ? 5000 : 1000);
}

get("new-room").onclick = () => guarded(() => start(true));
guarded(() => start());
