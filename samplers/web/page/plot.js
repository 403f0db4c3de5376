// The course of a job: two curves over its steps.

const SPACE = "http://www.w3.org/2000/svg";

export function plot(svg, job) {
  svg.replaceChildren();
  if (!job || job.trace.length < 2) return;
  const { width, height } = svg.getBoundingClientRect();
  const box = { left: 52, right: width - 52, top: 16, bottom: height - 20 };
  const md = job.kind === "md";
  const steps = job.trace.map((_, k) => k);
  if (md) {
    curve(svg, box, job.trace.map((row) => row[0]), job.trace.map((row) => row[1]), "#0b63a5", box.left - 4, "end");
    text(svg, box.left, 11, "potential energy, eV", "#0b63a5");
    text(svg, (box.left + box.right) / 2, height - 4, "time, ps", null, "middle");
  } else {
    curve(svg, box, steps, job.trace.map((row) => row[0] && Math.log10(row[0])), "#b35c00", box.left - 4, "end", (x) => (10 ** x).toPrecision(2));
    curve(svg, box, steps, job.trace.map((row) => row[1]), "#0b63a5", box.right + 4, "start");
    text(svg, box.left, 11, "σ, Å (logarithmic)", "#b35c00");
    text(svg, box.right, 11, "similarity (log density of an atom)", "#0b63a5", "end");
    text(svg, (box.left + box.right) / 2, height - 4, "step", null, "middle");
  }
}

function curve(svg, box, xs, ys, color, edge, anchor, label = (x) => x.toPrecision(4)) {
  const good = ys.map((y, k) => [xs[k], y]).filter(([, y]) => y !== null && Number.isFinite(y));
  if (good.length < 2) return;
  const [low, high] = [Math.min(...good.map((p) => p[1])), Math.max(...good.map((p) => p[1]))];
  const span = high - low || 1, width = Math.max(...xs) - Math.min(...xs) || 1, first = Math.min(...xs);
  const place = ([x, y]) => [
    box.left + ((x - first) / width) * (box.right - box.left), box.bottom - ((y - low) / span) * (box.bottom - box.top),
  ];
  const line = document.createElementNS(SPACE, "polyline");
  line.setAttribute("points", good.map((each) => place(each).map((x) => x.toFixed(1)).join(",")).join(" "));
  line.setAttribute("fill", "none");
  line.setAttribute("stroke", color);
  line.setAttribute("stroke-width", "1.6");
  svg.append(line);
  text(svg, edge, box.top + 8, label(high), color, anchor);
  text(svg, edge, box.bottom, label(low), color, anchor);
}

function text(svg, x, y, words, color, anchor = "start") {
  const element = document.createElementNS(SPACE, "text");
  element.setAttribute("x", x);
  element.setAttribute("y", y);
  element.setAttribute("text-anchor", anchor);
  if (color) element.style.fill = color;
  element.textContent = words;
  svg.append(element);
}
