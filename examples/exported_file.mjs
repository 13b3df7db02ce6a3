// Classify texts with a file of `mapsto export` from JavaScript: in Node.js, and with small changes in a browser.
//
//     npm install onnxruntime-web @huggingface/tokenizers
//     node exported_file.mjs clf.onnx "a wonderful film" "今天天气真好！"
//
// For models of the arrow "text -> label". Each text is a row of its own here; exported_file.py packs several into one.

import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import { Tokenizer } from "@huggingface/tokenizers";

// The entries of the file's metadata: field 14 of ONNX's ModelProto, each a message of a key (field 1) and a value (field 2).
function readMetadata(bytes) {
  const decoder = new TextDecoder();
  const entries = {};
  for (const [field, content] of readFields(bytes)) {
    if (field === 14) {
      const parts = new Map(readFields(content));
      entries[decoder.decode(parts.get(1))] = decoder.decode(parts.get(2) ?? new Uint8Array());
    }
  }
  return entries;
}

// The number and content of each length-delimited field of a protobuf message.
function* readFields(bytes) {
  let at = 0;
  const varint = () => {
    let number = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      number += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    return number;
  };
  while (at < bytes.length) {
    const tag = varint();
    const type = tag % 8;
    if (type === 0) varint();
    else if (type === 2) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else at += type === 1 ? 8 : 4;
  }
}

const int64 = (numbers, shape) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);

// The inputs of one example: its tokens are the first segment of a row without padding.
function makeInputs(ids) {
  const t = ids.length;
  const numbers = [...ids.keys()];
  const zeros = numbers.map(() => 0);
  return {
    text_tokens: int64(ids, [t]),
    text_slots: int64(numbers, [t]),
    segments: int64(numbers.map(() => 1), [1, t]),
    owner: int64(zeros, [1, t]),
    positions: int64(numbers, [1, t, 1]),
    roles: int64(zeros, [1, t]),
    places: int64(zeros, [1, t]),
    starts: int64([0], [1]),
    lengths: int64([t], [1]),
  };
}

const [path, ...texts] = process.argv.slice(2);
const bytes = new Uint8Array(await readFile(path));
const metadata = readMetadata(bytes);
const tokenizer = new Tokenizer(
  JSON.parse(metadata["file:tokenizer.json"]),
  JSON.parse(metadata["file:tokenizer_config.json"] ?? "{}"),
);
const { classes } = JSON.parse(metadata["file:mapsto.json"]).targets[0].state;
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(bytes);
for (const text of texts) {
  const inputs = makeInputs(tokenizer.encode(text).ids);
  // A graph has no inputs that it does not read. Further ones ask for further answers, at no token here.
  const feeds = Object.fromEntries(session.inputNames.map((name) => [name, inputs[name] ?? int64([], [0])]));
  const logits = Array.from((await session.run(feeds, ["label"])).label.data);
  const largest = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - largest));
  const total = exponentials.reduce((sum, exponential) => sum + exponential, 0);
  const best = logits.indexOf(largest);
  console.log(JSON.stringify({ text, label: classes[best], probability: exponentials[best] / total }));
}
