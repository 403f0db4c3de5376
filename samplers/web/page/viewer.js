// The scene in three dimensions: what is drawn, the fragment, and what a job makes.

const NEAR = 16; // pixels between a click and an atom
const MOVED = 5; // pixels after which a click is a drag
const STICKS = { stick: { radius: 0.11 }, sphere: { scale: 0.24 } };
const FAINT = { stick: { radius: 0.05, color: "#b8c2cb" }, sphere: { scale: 0.13, color: "#b8c2cb" } };

export class Viewer {
  constructor(element) {
    this.element = element;
    this.view = $3Dmol.createViewer(element, { backgroundColor: "white", antialias: !drawnByHand() });
    this.fragment = null;
    this.models = {};
    this.drawn = [];
    this.onPlace = () => {};
    this.onAtom = () => {};
    this.tool = "draw";
    this.axes();
    this.view.zoomTo();
    this.render();
    this.listen();
    new ResizeObserver(() => { this.view.resize(); this.render(); }).observe(element);
  }

  // Once per picture of the screen, however much has changed.
  render() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.view.render();
    });
  }

  axes() {
    for (const [x, y, z] of [[1, 0, 0], [0, 1, 0], [0, 0, 1]]) {
      const end = { x: 7 * x, y: 7 * y, z: 7 * z };
      this.view.addLine({ start: { x: -end.x, y: -end.y, z: -end.z }, end, color: "#dde3e8" });
      const label = { position: end, fontSize: 11, fontColor: "#8a97a3", backgroundOpacity: 0 };
      this.view.addLabel("xyz"[[x, y, z].indexOf(1)], label);
    }
  }

  listen() {
    let start = null;
    this.element.addEventListener("pointerdown", (e) => { start = [e.pageX, e.pageY]; }, true);
    this.element.addEventListener("pointerup", (e) => {
      if (start && Math.hypot(e.pageX - start[0], e.pageY - start[1]) < MOVED) this.click(e.pageX, e.pageY);
      start = null;
    }, true);
  }

  click(x, y) {
    if (this.tool === "draw") {
      this.onPlace(this.at(x, y));
      return;
    }
    if (this.models.made) this.setMade(null); // what was clicked at is the fragment
    let found = null, best = NEAR;
    for (const [index, place] of (this.fragment?.positions ?? []).entries()) {
      const at = this.view.modelToScreen(point(place));
      const gap = Math.hypot(at.x - x, at.y - y);
      if (gap < best) [found, best] = [index, gap];
    }
    if (found !== null) this.onAtom(found);
  }

  // The point of the scene under a place of the page, as deep as the last point that was drawn.
  at(x, y) {
    const last = this.drawn.filter((each) => each.kind === "curve").at(-1)?.points.at(-1) ?? [0, 0, 0];
    const from = this.view.modelToScreen(point(last));
    const move = this.view.screenOffsetToModel(x - from.x, y - from.y);
    return [last[0] + move.x, last[1] + move.y, last[2] + move.z].map((each) => Math.round(each * 100) / 100);
  }

  setDrawn(drawn) {
    for (const shape of this.shapes ?? []) this.view.removeShape(shape);
    this.drawn = drawn;
    this.shapes = [];
    for (const each of drawn) {
      const look = { color: "#3b8bd0", opacity: 0.45 };
      if (each.kind === "sphere") {
        this.shapes.push(this.view.addSphere({ center: point(each.points[0]), radius: each.radius, ...look, opacity: 0.25 }));
        continue;
      }
      const path = each.kind === "ring" ? ring(each) : each.points;
      path.forEach((place, k) => {
        if (each.kind === "curve") this.shapes.push(this.view.addSphere({ center: point(place), radius: 0.3, ...look }));
        if (k) this.shapes.push(this.view.addCylinder({ start: point(path[k - 1]), end: point(place), radius: 0.12, fromCap: 1, toCap: 1, ...look }));
      });
    }
    this.render();
  }

  setFragment(fragment) {
    this.fragment = fragment;
    this.showFragment();
  }

  // Hidden while something else is shown in its place.
  showFragment() {
    const { fragment } = this;
    this.replace("fragment", fragment && !this.models.made && atomsOf(fragment));
    if (this.models.fragment) {
      const kept = new Set(fragment.kept), heavy = (k) => fragment.symbols[k] !== "H";
      const stays = (k) => (heavy(k) ? kept.has(k) : neighbours(fragment, k).some((each) => kept.has(each)));
      const model = this.models.fragment;
      model.setStyle({}, STICKS);
      model.setStyle({ index: fragment.symbols.map((_, k) => k).filter((k) => !stays(k)) }, FAINT);
      model.setStyle({ index: fragment.anchors }, { ...STICKS, sphere: { scale: 0.34, color: "#2c9a4b" } });
    }
    this.render();
  }

  // A frame of a running job, or a molecule of the gallery; null for none.
  setMade(made) {
    this.replace("made", made && atomsOf(made));
    this.models.made?.setStyle({}, STICKS);
    this.showFragment();
  }

  replace(name, atoms) {
    if (this.models[name]) this.view.removeModel(this.models[name]);
    delete this.models[name];
    if (!atoms?.length) return;
    this.models[name] = this.view.addModel();
    this.models[name].addAtoms(atoms);
  }

  fit() {
    this.view.zoomTo();
    this.render();
  }
}

const point = ([x, y, z]) => ({ x, y, z });

// Whether the browser has no graphics card: smooth edges then cost ten times as much.
function drawnByHand() {
  const gl = document.createElement("canvas").getContext("webgl");
  const about = gl?.getExtension("WEBGL_debug_renderer_info");
  return /swiftshader|llvmpipe|software/i.test(about ? gl.getParameter(about.UNMASKED_RENDERER_WEBGL) : "software");
}

function neighbours(fragment, k) {
  return (fragment.bonds ?? []).filter((b) => b[0] === k || b[1] === k).map((b) => (b[0] === k ? b[1] : b[0]));
}

const RADII = { H: 0.31, C: 0.76, N: 0.71, O: 0.66, F: 0.57, P: 1.07, S: 1.05, Cl: 1.02 };

// Bonds by distance, for atoms that have none yet.
function guessed({ symbols, positions }) {
  const bonds = [];
  for (let i = 0; i < symbols.length; i++)
    for (let j = i + 1; j < symbols.length; j++) {
      const gap = Math.hypot(...positions[i].map((x, k) => x - positions[j][k]));
      if (gap < 1.25 * ((RADII[symbols[i]] ?? 1.2) + (RADII[symbols[j]] ?? 1.2))) bonds.push([i, j, 1]);
    }
  return bonds;
}

function atomsOf(structure) {
  const atoms = structure.symbols.map((elem, k) => {
    const [x, y, z] = structure.positions[k];
    return { elem, x, y, z, index: k, serial: k, bonds: [], bondOrder: [] };
  });
  for (const [i, j, order] of structure.bonds ?? guessed(structure)) {
    atoms[i].bonds.push(j); atoms[i].bondOrder.push(order);
    atoms[j].bonds.push(i); atoms[j].bondOrder.push(order);
  }
  return atoms;
}

function ring({ points, radius, normal }) {
  const size = Math.hypot(...normal), n = normal.map((x) => x / size);
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  let u = cross(n, Math.abs(n[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]);
  u = u.map((x) => x / Math.hypot(...u));
  const v = cross(n, u), steps = 36;
  return Array.from({ length: steps + 1 }, (_, k) => {
    const angle = (2 * Math.PI * k) / steps;
    return points[0].map((x, i) => x + radius * (Math.cos(angle) * u[i] + Math.sin(angle) * v[i]));
  });
}
