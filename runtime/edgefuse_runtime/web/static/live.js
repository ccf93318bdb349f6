// The page of a run: shows what the device sends, and confirms each frame.

import { $, Connection, decimals, duration, el, metres, percent, setText } from "./common.js";
import { drawOn, isClass, labelOf, probabilityOf, textOf } from "./draw.js";
import { prepareControls } from "./controls.js";
import { showMinute } from "./minute.js";

const STATES = {
  opening: ["warn", "Opening the camera"],
  running: ["good", "Running"],
  degraded: ["warn", "One sensor is missing"],
  reconnecting: ["bad", "Camera lost"],
  ended: ["quiet", "The run has ended"],
  closed: ["quiet", "Camera closed"],
  failed: ["bad", "The run has failed"],
};
const ENGINES = { onnxruntime: "ONNX Runtime", openvino: "OpenVINO", tensorrt: "TensorRT", rtx: "TensorRT-RTX" };
const STAGES = { read: "--s1", queue: "--s2", preprocess: "--s3", infer: "--s4", publish: "--s5" };
const SILENT_S = 2;

/** What is shown. `frame` has the newest header and its two bitmaps. */
const page = { hello: null, status: null, frame: null, paused: false, lost: true, lostReason: "", ended: null, times: [], events: new Map() };

const connection = new Connection("/live", {
  onText: (message) => ({ hello: showHello, status: showStatus, event: addEvent, ended: showEnded })[message.kind]?.(message),
  onFrame: showFrame,
  onLost: (reason) => {
    page.lost = true;
    page.lostReason = reason;
    showState();
  },
});
const controls = prepareControls(page, sendView);

function sendView() {
  connection.send({ kind: "view", images: !page.paused && !document.hidden });
}
document.addEventListener("visibilitychange", sendView);

function showHello(hello) {
  const version = document.querySelector('meta[name="version"]').content;
  if (hello.version !== version && sessionStorage.getItem("version") !== hello.version) {
    sessionStorage.setItem("version", hello.version); // once, whatever a proxy has kept
    location.reload();
    return;
  }
  if (page.hello?.run !== hello.run) {
    page.events.clear();
    page.frame = null;
    page.paused = false;
    $("events").replaceChildren();
  }
  Object.assign(page, { hello, lost: false, ended: null });
  setText("title", hello.title);
  document.title = hello.title ? `${hello.title} – edgefuse live` : "edgefuse live";
  setText("near", metres(hello.depth_range_m[0]));
  setText("far", metres(hello.depth_range_m[1]));
  $("run").replaceChildren(...runRows(hello).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
  hello.events.forEach(addEvent);
  controls.update();
  sendView();
  showState();
}

function runRows({ engine, camera, region, labels }) {
  const stream = camera.color;
  const name = ENGINES[engine.engine] ?? engine.engine ?? "–";
  const provider = engine.provider?.replace("ExecutionProvider", "") ?? "";
  const rows = [
    ["Engine", provider.startsWith(name) ? provider : [name, provider].filter(Boolean).join(", ")],
    ["Precision", (engine.precision ?? "–").toUpperCase()],
    ["Model", `${engine.file ?? "–"}, ${labels.length} classes`],
    ["Camera", [camera.name ?? camera.kind, camera.serial].filter(Boolean).join(", ")],
  ];
  if (stream) rows.push(["Colour stream", `${stream.width} × ${stream.height}, ${stream.fps} Hz`]);
  if (region) rows.push(["Region", `${region.roi} (from ${region.from})`]);
  return rows;
}

async function showFrame(header, rgb, depth) {
  const ack = () => connection.send({ kind: "ack", id: header.id });
  if (page.paused || document.hidden) return ack();
  try {
    const [rgbBitmap, depthBitmap] = await Promise.all([createImageBitmap(rgb), createImageBitmap(depth)]);
    if (page.paused || (page.frame && page.frame.header.id > header.id)) return [rgbBitmap, depthBitmap].forEach((bitmap) => bitmap.close());
    page.frame?.rgb.close(); // ten a second: without close, browsers keep their memory for a long time
    page.frame?.depth.close();
    page.frame = { header, rgb: rgbBitmap, depth: depthBitmap };
    page.times = [...page.times.filter((time) => time > performance.now() - 5000), performance.now()];
    redraw();
    showAnswers(header.regions);
    setText("frame", `frame ${header.frame}`);
    controls.frameShown();
    showState();
  } finally {
    ack();
  }
}

function redraw() {
  if (!page.frame) return;
  const { header, rgb, depth } = page.frame;
  drawOn($("rgb"), rgb, header, { names: true });
  drawOn($("depth"), depth, header, { names: false });
  const text = header.regions.map(textOf).join("; ") || "no region";
  $("rgb").setAttribute("aria-label", `Colour image: ${text}`);
  $("depth").setAttribute("aria-label", `Depth image: ${text}`);
}
addEventListener("resize", redraw);

function showAnswers(regions) {
  $("regions").className = regions.length > 1 ? "several" : "";
  $("regions").replaceChildren(...(regions.length ? regions.map(answer) : [el("p", { className: "quiet" }, "No object in view.")]));
  const [first] = regions;
  if (!first) return;
  const part = first.contribution_rgb;
  setText("valid", percent(first.valid_depth));
  for (const [sensor, value] of [["rgb", part], ["depth", part === null ? null : 1 - part]]) {
    const state = first.sensors[sensor];
    const minute = page.status?.sensors_ok[sensor];
    $(`part-${sensor}`).style.width = `${100 * (value ?? 0)}%`;
    setText(`now-${sensor}`, state === "ok" ? percent(value) : state);
    setText(`state-${sensor}`, minute === undefined || minute === 1 ? state : `${state}; ok ${percent(minute)} of the minute`);
    $(`state-${sensor}`).className = state === "ok" ? "good" : "bad";
  }
}

function answer(region) {
  const label = labelOf(region);
  const under = el("p", { className: "under" });
  if (region.probability !== null) under.append(el("span", {}, el("b", {}, probabilityOf(region))));
  if (region.nearest_m !== null) under.append(el("span", {}, `at ${metres(region.nearest_m)}`));
  if (region.expected !== null) {
    const right = region.correct === null ? "" : region.correct ? "right" : "wrong";
    under.append(el("span", { className: right === "wrong" ? "bad" : right && "good" }, `${right || "true class"}: ${region.expected}`));
  }
  if (region.object !== null) under.append(el("span", {}, `object ${region.object}${region.decided === null ? "" : `: ${region.decided}`}`));
  const bars = el("div", { className: "bars" });
  for (const [name, probability] of region.top) {
    const bar = el("i", { ariaHidden: "true" });
    bar.style.setProperty("--part", `${100 * probability}%`);
    bars.append(el("span", { title: name }, name), el("span", {}, percent(probability)), bar);
  }
  const warning = region.warning ? el("p", { className: "warning warn" }, region.warning) : null;
  const title = el("p", { className: `label${label.length > 14 ? " long" : ""}${isClass(region) ? "" : " quiet"}` }, label);
  return el("div", { className: "region" }, title, under, bars, warning);
}

function showStatus(status) {
  page.status = status;
  const rows = [["latency", status.latency_ms], ["frame age", status.age_ms]].filter(([, values]) => values);
  $("latency").replaceChildren(
    ...rows.map(([name, values]) => {
      const cells = ["p50", "p95", "p99", "max"].map((key) => el("td", {}, decimals(values[key])));
      return el("tr", {}, el("th", { scope: "row" }, name), ...cells);
    })
  );
  setText("window", status.window_s ? `last ${Math.round(status.window_s)} s` : "");
  showStages(status.stages_ms);
  showMinute($("minute"), status.contribution_rgb);
  const known = status.contribution_rgb.filter((value) => value !== null);
  const mean = known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  setText("mean", mean === null ? "" : `last minute: colour ${percent(mean)}, depth ${percent(1 - mean)}`);
  setText("results", `${status.results} (${decimals(status.results_per_s)} per second)`);
  setText("dropped", String(status.dropped));
  setText("stale", String(status.stale));
  const recent = page.times.filter((time) => time > performance.now() - 5000);
  setText("shown", page.paused ? "paused" : `${decimals(recent.length / 5)} per second`);
  setText("rates", `${decimals(status.results_per_s)} results/s · p99 ${decimals(status.latency_ms?.p99)} ms · ${status.dropped} dropped`);
  showState();
}

function showStages(stages) {
  const total = Object.values(stages).reduce((sum, value) => sum + value, 0) || 1;
  const parts = Object.entries(STAGES).filter(([stage]) => stage in stages);
  const coloured = (tag, colour) => {
    const made = el(tag);
    made.style.background = `var(${colour})`;
    return made;
  };
  $("stages").replaceChildren(
    ...parts.map(([stage, colour]) => {
      const part = coloured("span", colour);
      part.style.width = `${(100 * stages[stage]) / total}%`;
      return part;
    })
  );
  $("stage-key").replaceChildren(...parts.map(([stage, colour]) => el("span", {}, coloured("i", colour), ` ${stage} ${decimals(stages[stage])}`)));
}

/** The camera's state in the header, over the images, and as a notice. */
function showState() {
  const { status, lost, ended } = page;
  const camera = status?.camera;
  let [kind, text] = STATES[camera?.state] ?? ["quiet", "connecting"];
  let notice = "";
  let veil = "";
  if (lost && ended) {
    [kind, text] = STATES[ended.failure ? "failed" : "ended"];
    veil = text;
    notice = `${endOf(ended)} The page connects again when the device starts another one.`;
  } else if (lost) {
    [kind, text] = ["bad", "No connection"];
    veil = page.hello ? "No connection to the device" : "Connecting to the device";
    notice = page.hello ? `The device does not answer${page.lostReason ? ` (${page.lostReason})` : ""}. The page connects again by itself.` : page.lostReason;
  } else if (camera?.state === "reconnecting") {
    const attempt = camera.attempt ? `attempt ${camera.attempt}, ` : "";
    veil = `${text}\n${attempt}${duration(camera.for_s)}`;
    notice = `The camera is lost: ${camera.reason.replace(/\.$/, "")}. It is opened again until it answers.`;
  } else if (camera?.state === "degraded") {
    notice = `${camera.reason}: answers come from the other sensor.`;
  } else if (camera?.state === "failed") {
    veil = text;
    notice = ended ? endOf(ended) : `The run has failed: ${camera.reason}`;
  } else if (camera?.state === "ended") {
    veil = text;
    notice = ended ? endOf(ended) : "";
  } else if (camera?.state === "running" && page.frame && faults(page.frame.header).length) {
    [kind, text] = ["warn", faults(page.frame.header).join(", ")];
  } else if (camera?.state === "running" && status.since_result_s > SILENT_S) {
    [kind, text] = ["warn", `No result for ${duration(status.since_result_s)}`];
  } else if (camera && !page.frame) {
    veil = camera.state === "running" ? "Waiting for an image" : text;
  }
  const outputs = Object.values(status?.outputs ?? {});
  if (!notice && outputs.length) notice = outputs.join("; ");
  show(kind, text, notice, veil);
}

function endOf({ reason, failure, results }) {
  return failure ? `The run has failed: ${failure.replace(/\.$/, "")}.` : `The run has ended (${reason}) after ${results} results.`;
}

/** Sensors whose images are empty or repeat, although the camera sends them. */
function faults({ regions }) {
  const names = { rgb: "Colour", depth: "Depth" };
  const states = Object.entries(regions[0]?.sensors ?? {});
  return states.filter(([, state]) => state !== "ok").map(([sensor, state]) => `${names[sensor]} is ${state}`);
}

function show(kind, text, notice, veil) {
  $("camera").className = `pill ${kind}`;
  setText("camera-text", text);
  setText("notice", notice);
  $("notice").className = kind === "good" ? "warn" : kind;
  $("notice").hidden = !notice;
  setText("veil", veil);
  $("veil").hidden = !veil;
  document.body.classList.toggle("off", Boolean(veil));
}

function showEnded(ended) {
  page.ended = ended;
  showState();
}

function addEvent(event) {
  const started = performance.now() - 1000 * event.ago_s;
  const image = event.has_thumbnail
    ? el("img", { src: `/thumbnails/${event.id}.jpg?run=${page.hello?.run ?? ""}`, alt: "", width: 48, height: 48 })
    : el("span", { className: "blank", ariaHidden: "true" }, { camera: "!", engine: "!", sink: "!", started: "▸" }[event.event] ?? "·");
  const time = el("time", { dateTime: event.time, title: `${event.time.replace("T", " ")}, the device's clock` });
  const row = el("li", {}, image, el("div", {}, el("p", {}, event.message), time));
  const before = page.events.get(event.id);
  if (before) before.row.replaceWith(row);
  else $("events").prepend(row);
  page.events.set(event.id, { row, time, started });
  while (page.events.size > 50) {
    const [oldest] = page.events.keys();
    page.events.get(oldest).row.remove();
    page.events.delete(oldest);
  }
  showAges();
}

function showAges() {
  for (const { time, started } of page.events.values()) {
    const age = Math.max(0, performance.now() - started) / 1000;
    setText(time, age < 1 ? "now" : `${duration(age)} ago`);
  }
  $("no-events").hidden = page.events.size > 0;
}
setInterval(showAges, 1000);
