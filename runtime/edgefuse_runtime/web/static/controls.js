// The buttons: pause, snapshot, clip, and the dialog that keeps a frame with its true class.

import { $, download, el, post, setText } from "./common.js";
import { compose, draw, labelOf, textOf } from "./draw.js";

const MAX_CLIP_MS = 60000;
const CLIP_TYPES = ["video/webm;codecs=vp9", "video/webm", "video/mp4"];
const BACKGROUND = "_background";
const OTHER = "\0other";

/** `page`: what is shown; `onPause`: called when it was paused or goes on. */
export function prepareControls(page, onPause) {
  const clip = { canvas: document.createElement("canvas"), recorder: null };
  let marked = null;

  const caption = () => `${page.hello?.title ?? ""}  frame ${page.frame.header.frame}  ${page.frame.header.regions.map(textOf).join("; ")}`;
  const fileName = (ending) => `edgefuse-${page.hello?.run.slice(0, 6)}-frame-${page.frame.header.frame}.${ending}`;

  /** The device keeps this frame in memory, so that it can be marked later. */
  const hold = () => page.hello?.can_collect && post("/hold", { run: page.hello.run, id: page.frame.header.id }).catch(() => {});

  function setPaused(paused) {
    page.paused = paused;
    if (paused) hold();
    onPause();
    update();
  }

  function update() {
    $("pause").setAttribute("aria-pressed", String(page.paused));
    setText("pause", page.paused ? "Continue" : "Pause");
    for (const id of ["pause", "snapshot", "wrong"]) $(id).disabled = !page.frame;
    $("clip").disabled = !clip.recorder && (!page.frame || page.paused || !window.MediaRecorder);
    if (page.paused) setText("done", "Paused: live goes on, this page shows one frame.");
    else if ($("done").textContent.startsWith("Paused")) setText("done", "");
  }

  function takeSnapshot() {
    const canvas = document.createElement("canvas");
    compose(canvas, page.frame, caption());
    const name = fileName("png");
    canvas.toBlob((blob) => {
      download(blob, name);
      setText("done", `Saved ${name}.`);
    });
  }

  function startClip() {
    compose(clip.canvas, page.frame, caption());
    const type = CLIP_TYPES.find((name) => MediaRecorder.isTypeSupported(name));
    const parts = [];
    const name = fileName(type?.includes("mp4") ? "mp4" : "webm");
    const recorder = (clip.recorder = new MediaRecorder(clip.canvas.captureStream(10), type ? { mimeType: type } : {}));
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = () => {
      clip.recorder = null;
      download(new Blob(parts, { type: recorder.mimeType }), name);
      setText("done", `Saved ${name}.`);
      $("clip").setAttribute("aria-pressed", "false");
      setText("clip", "Record clip");
      update();
    };
    recorder.start(1000);
    setTimeout(() => recorder.state === "recording" && recorder.stop(), MAX_CLIP_MS);
    $("clip").setAttribute("aria-pressed", "true");
    setText("clip", "Stop recording");
    setText("done", "Recording what this page shows, for at most a minute.");
  }

  function openDialog() {
    const { header, rgb } = page.frame;
    marked = { run: page.hello.run, header };
    hold();
    const canvas = $("dialog-image");
    Object.assign(canvas, { width: 320, height: Math.round((320 * header.height) / header.width) });
    draw(canvas.getContext("2d"), rgb, { width: 320, height: canvas.height, size: [header.width, header.height], regions: header.regions, names: false });
    const option = (value, text) => el("option", { value }, text);
    $("choice-region").replaceChildren(...header.regions.map((region, place) => option(region.id, `${place + 1}: ${labelOf(region)}`)));
    $("choice-region").parentElement.hidden = header.regions.length < 2;
    $("choice").replaceChildren(...page.hello.labels.map((label) => option(label, label)), option(BACKGROUND, "nothing (background)"), option(OTHER, "another class"));
    $("choice").value = header.regions[0]?.top[1]?.[0] ?? page.hello.labels[0];
    $("other").value = "";
    $("other-label").hidden = true;
    const can = page.hello.can_collect;
    $("choices").hidden = !can;
    $("save").hidden = !can;
    $("save").disabled = false;
    setText("cancel", can ? "Cancel" : "Close");
    setText("dialog-title", can ? "What is it really?" : "Frames are not kept");
    setText("dialog-text", `Frame ${header.frame}: ${header.regions.map(textOf).join("; ") || "no object"}.`);
    setText("dialog-note", can ? "The frame is kept on the device, to train with it." : "Live runs without a folder for wrong frames. Start it again with: edgefuse live BUNDLE --web --collect DIR");
    $("dialog").showModal();
  }

  async function keep(event) {
    event.preventDefault();
    const chosen = $("choice").value;
    const label = chosen === OTHER ? $("other").value.trim() : chosen;
    if (!label) return setText("dialog-note", "Type the name of the class.");
    $("save").disabled = true;
    try {
      const { regions, id } = marked.header;
      const answer = await post("/wrong", { run: marked.run, id: regions.length ? Number($("choice-region").value) : id, label });
      $("dialog").close();
      setText("done", answer.message);
    } catch (error) {
      setText("dialog-note", `It was not kept: ${error.message}`);
      $("save").disabled = false;
    }
  }

  $("pause").addEventListener("click", () => setPaused(!page.paused));
  $("snapshot").addEventListener("click", takeSnapshot);
  $("clip").addEventListener("click", () => (clip.recorder ? clip.recorder.stop() : startClip()));
  $("wrong").addEventListener("click", openDialog);
  $("wrong-form").addEventListener("submit", keep);
  $("cancel").addEventListener("click", () => $("dialog").close());
  $("choice").addEventListener("change", () => {
    $("other-label").hidden = $("choice").value !== OTHER;
    if (!$("other-label").hidden) $("other").focus();
  });
  update();

  return {
    update,
    frameShown() {
      if (clip.recorder) compose(clip.canvas, page.frame, caption());
      if ($("pause").disabled) update();
    },
  };
}
