// What each sensor contributed in each second of the last minute, as a stacked chart.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 20;

/** `values`: colour's part of each second, the oldest first; null = no result. */
export function showMinute(svg, values) {
  const bars = values.flatMap((value, second) =>
    value === null ? [] : [rect(second, 0, HEIGHT * value, "--rgb"), rect(second, HEIGHT * value, HEIGHT * (1 - value), "--depth")]
  );
  svg.setAttribute("viewBox", `0 0 ${values.length} ${HEIGHT}`);
  svg.replaceChildren(...bars);
}

function rect(x, y, height, colour) {
  const made = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ x, y, width: 1.02, height })) made.setAttribute(name, value);
  made.style.fill = `var(${colour})`;
  return made;
}
