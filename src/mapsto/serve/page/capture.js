// A picture from the camera or a sound from the microphone as a file of the form. Nothing leaves the page before a request is sent.

import { element } from "./elements.js";

const MAX_SECONDS = 120;
const JPEG_QUALITY = 0.92;
const HEADER_BYTES = 44;

const isTouched = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

// Why a device cannot be used, in words.
function explain(error, device) {
  const reasons = { NotAllowedError: "the browser was not allowed to", NotFoundError: "there is none", NotReadableError: "another program uses it" };
  return `The ${device} cannot be used: ${reasons[error.name] ?? error.message}.`;
}

const stopAll = (stream) => stream?.getTracks().forEach((track) => track.stop());

// Buttons for a photo. take(file): is called with the photo. say(text, isError): tells what happens.
export function makeCamera(take, say) {
  const node = element("div", { className: "capture" });
  if (isTouched()) {
    // A telephone has a camera program of its own, with the lens behind.
    const input = element("input", { type: "file", accept: "image/*", capture: "environment", className: "hidden", tabindex: "-1", "aria-hidden": "true" });
    input.addEventListener("change", () => { if (input.files[0]) take(input.files[0]); });
    const button = element("button", { type: "button" }, "Take a photo");
    button.addEventListener("click", () => input.click());
    node.append(button, input);
    return { node, stop() {} };
  }
  if (!navigator.mediaDevices) return { node, stop() {} }; // a page by http from another machine has none
  let stream = null;
  const video = element("video", { playsinline: "", "aria-label": "the picture of the camera" });
  video.muted = true;
  const start = element("button", { type: "button" }, "Use the camera");
  const shoot = element("button", { type: "button" }, "Take the photo");
  const cancel = element("button", { type: "button" }, "Close the camera");
  const stop = () => {
    stopAll(stream);
    stream = video.srcObject = null;
    node.replaceChildren(start);
  };
  start.addEventListener("click", async () => {
    start.disabled = true;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
      video.srcObject = stream;
      await video.play();
      node.replaceChildren(video, element("p", { className: "actions" }, shoot, cancel));
      shoot.focus();
      say("The camera is on.");
    } catch (error) {
      stop();
      say(explain(error, "camera"), true);
    } finally {
      start.disabled = false;
    }
  });
  shoot.addEventListener("click", () => {
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((photo) => {
      stop();
      start.focus();
      take(new File([photo], "photo.jpg", { type: "image/jpeg" }));
      say("The photo is in the form; the camera is off.");
    }, "image/jpeg", JPEG_QUALITY);
  });
  cancel.addEventListener("click", () => {
    stop();
    start.focus();
    say("The camera is off.");
  });
  node.append(start);
  return { node, stop };
}

// A button that records. take(file): is called with the sound as WAV, in the rate of the microphone.
export function makeMicrophone(take, say) {
  const node = element("div", { className: "capture" });
  if (!navigator.mediaDevices || !window.AudioWorkletNode) return { node, stop() {} };
  const button = element("button", { type: "button" }, "Record");
  let recording = null;

  const stop = () => {
    if (!recording) return null;
    const { stream, context, timer, chunks } = recording;
    recording = null;
    clearInterval(timer);
    stopAll(stream);
    context.close();
    button.textContent = "Record";
    button.classList.remove("on");
    return { chunks, rate: context.sampleRate };
  };
  const finish = () => {
    const { chunks, rate } = stop();
    const seconds = chunks.reduce((sum, chunk) => sum + chunk.length, 0) / rate;
    if (!seconds) return say("The microphone gave no sound.", true);
    take(new File([encodeWav(chunks, rate)], "recording.wav", { type: "audio/wav" }));
    say(`${seconds.toFixed(1)} s were recorded; the microphone is off.`);
  };
  button.addEventListener("click", async () => {
    if (recording) return finish();
    button.disabled = true;
    let stream = null;
    try {
      // As it comes, without the changes that browsers make for telephone calls.
      stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false } });
      const context = new AudioContext();
      await context.audioWorklet.addModule("page/recorder.js");
      const chunks = [];
      const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      recorder.port.onmessage = ({ data }) => chunks.push(data);
      context.createMediaStreamSource(stream).connect(recorder);
      await context.resume();
      const begin = performance.now();
      const timer = setInterval(() => {
        const seconds = (performance.now() - begin) / 1000;
        if (seconds >= MAX_SECONDS) return finish();
        button.textContent = `Stop (${seconds.toFixed(0)} s)`;
      }, 250);
      recording = { stream, context, timer, chunks };
      button.textContent = "Stop (0 s)";
      button.classList.add("on");
      say("The microphone is on.");
    } catch (error) {
      stopAll(stream);
      say(explain(error, "microphone"), true);
    } finally {
      button.disabled = false;
    }
  });
  node.append(button);
  return { node, stop };
}

// Samples from −1 to 1 as a WAV file of one channel and 16 bits.
function encodeWav(chunks, rate) {
  const count = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 2 * count));
  const write = (place, text) => [...text].forEach((letter, index) => view.setUint8(place + index, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + 2 * count, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // whole numbers
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  write(36, "data");
  view.setUint32(40, 2 * count, true);
  let place = HEADER_BYTES;
  for (const chunk of chunks) {
    for (const sample of chunk) {
      view.setInt16(place, Math.max(-32768, Math.min(32767, Math.round(32767 * sample))), true);
      place += 2;
    }
  }
  return view.buffer;
}
