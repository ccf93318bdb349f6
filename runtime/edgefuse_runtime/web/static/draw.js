// Draws a frame with its regions on a canvas.

import { metres, percent } from "./common.js";

export const NO_DECISION = "no decision";
export const labelOf = (region) => region.label ?? NO_DECISION;
const COLOURS = { sure: "#1d4fb8", unsure: "#4a4f5a", wrong: "#a31b17" };

export const isClass = (region) => ![null, "unknown", "none"].includes(region.label);
const kindOf = (region) => (region.correct === false ? "wrong" : isClass(region) ? "sure" : "unsure");

/** The probability of the most likely class, with its name where that is not the answer. */
export function probabilityOf(region) {
  const name = isClass(region) || !region.top.length ? "" : `${region.top[0][0]} `;
  return name + percent(region.probability);
}

export function textOf(region) {
  const parts = [labelOf(region)];
  if (region.probability !== null) parts.push(probabilityOf(region));
  if (region.nearest_m !== null) parts.push(metres(region.nearest_m));
  return parts.join(" · ");
}

/** Draws `bitmap` and the regions in a rectangle of the canvas. `size`: width and height of the coordinates of the regions. */
export function draw(context, bitmap, { x = 0, y = 0, width, height, size, regions, names = true, unit = 1 }) {
  context.imageSmoothingEnabled = width > bitmap.width * 0.5 && names;
  context.drawImage(bitmap, x, y, width, height);
  const scale = width / size[0];
  context.font = `600 ${15 * unit}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "middle";
  for (const region of regions) {
    const [left, top, w, h] = region.roi.map((value) => value * scale);
    const kind = kindOf(region);
    context.setLineDash(kind === "unsure" ? [8 * unit, 6 * unit] : []);
    for (const [colour, thickness] of [["#000a", 6], [names ? COLOURS[kind] : "#fff", 3]]) {
      context.strokeStyle = colour;
      context.lineWidth = thickness * unit;
      context.strokeRect(x + left, y + top, w, h);
    }
    if (names) chip(context, textOf(region), COLOURS[kind], x + left, y + top, { x, y, width, height, unit });
  }
  context.setLineDash([]);
}

/** A label above the corner of a region, kept inside the image. */
function chip(context, text, colour, left, top, { x, y, width, height, unit }) {
  const padding = 7 * unit;
  const tall = 26 * unit;
  let shown = text;
  while (shown.length > 4 && context.measureText(shown).width + 2 * padding > width) shown = `${shown.slice(0, -2).replace(/…$/, "")}…`;
  const wide = context.measureText(shown).width + 2 * padding;
  const from = Math.max(x, Math.min(left - 1.5 * unit, x + width - wide));
  const above = top - tall >= y ? top - tall : Math.min(top, y + height - tall);
  context.fillStyle = colour;
  context.fillRect(from, above, wide, tall);
  context.fillStyle = "#fff";
  context.fillText(shown, from + padding, above + tall / 2);
}

/** Fits a canvas to its place on the screen, and draws a frame on it. */
export function drawOn(canvas, bitmap, header, { names }) {
  const unit = devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * unit));
  const height = Math.max(1, Math.round((width * header.height) / header.width));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  draw(canvas.getContext("2d"), bitmap, { width, height, size: [header.width, header.height], regions: header.regions, names, unit });
}

/** Both images side by side with a line of text below, for snapshots and clips. */
export function compose(canvas, { header, rgb, depth }, text) {
  const height = rgb.height;
  const strip = 32;
  const size = [header.width, header.height];
  const width = 2 * rgb.width;
  if (canvas.width !== width || canvas.height !== height + strip) Object.assign(canvas, { width, height: height + strip });
  const context = canvas.getContext("2d");
  const common = { width: rgb.width, height, size, regions: header.regions };
  draw(context, rgb, common);
  draw(context, depth, { ...common, x: rgb.width, names: false });
  context.fillStyle = "#16191f";
  context.fillRect(0, height, width, strip);
  context.fillStyle = "#fff";
  context.font = '15px system-ui, "DejaVu Sans", sans-serif';
  context.fillText(text, 10, height + strip / 2, width - 20);
}
