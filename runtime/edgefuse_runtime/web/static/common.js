// What every page uses: elements, numbers as text, a connection that opens itself again, requests.
// Text from the device is only ever set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; a string child is text. */
export function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Sets the text of an element if it differs, so that screen readers and selections are left alone. */
export function setText(target, text) {
  const element = typeof target === "string" ? $(target) : target;
  if (element.textContent !== text) element.textContent = text;
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
export const decimals = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const metres = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(2)} m`);

export function duration(seconds) {
  if (seconds < 90) return `${Math.floor(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

/** Sends JSON; the answer's text, or an error with it. */
export async function post(path, value) {
  const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text.trim() || `error ${answer.status}`);
  return JSON.parse(text);
}

export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const SILENCE_MS = 4000; // a device sends a status twice a second
const PAUSES_MS = [250, 500, 1000, 2000, 3000];

/** A WebSocket that is opened again whenever it fails. */
export class Connection {
  constructor(path, { onText, onFrame, onLost }) {
    Object.assign(this, { path, onText, onFrame, onLost, attempt: 0, socket: null, timer: 0, heard: 0 });
    this.open();
    setInterval(() => {
      if (this.socket?.readyState === WebSocket.OPEN && performance.now() - this.heard > SILENCE_MS) this.fail();
    }, 500);
    const now = () => this.socket || this.open();
    addEventListener("online", now);
    document.addEventListener("visibilitychange", () => document.hidden || now());
  }

  open() {
    clearTimeout(this.timer);
    const url = new URL(this.path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      this.heard = performance.now();
    };
    socket.onmessage = (event) => {
      if (this.socket !== socket) return;
      this.heard = performance.now();
      this.attempt = 0;
      if (typeof event.data === "string") this.onText(JSON.parse(event.data));
      else this.onFrame(...frameIn(event.data));
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      if (!opened) checkToken();
      this.fail(event.reason);
    };
  }

  fail(reason = "") {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.onLost(reason);
    this.timer = setTimeout(() => this.open(), PAUSES_MS[Math.min(this.attempt++, PAUSES_MS.length - 1)]);
  }

  send(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}

/** The header, and the two JPEG files, of a binary message. */
function frameIn(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const jpeg = (from, size) => new Blob([new Uint8Array(buffer, from, size)], { type: "image/jpeg" });
  return [header, jpeg(start, header.rgb_bytes), jpeg(start + header.rgb_bytes, header.depth_bytes)];
}

/** A device that was started again may have another token. */
async function checkToken() {
  try {
    const answer = await fetch("/static/common.js", { method: "HEAD", cache: "no-store" });
    if (answer.status === 401) location.assign("/login");
  } catch {
    // it cannot be reached: the connection is tried again
  }
}
