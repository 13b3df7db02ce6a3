// The form of a model: a field for each column that it reads.

import { makeCamera, makeMicrophone } from "./capture.js";
import { element } from "./elements.js";

const MAX_TEXT_ROWS = 5;

// A field of the form. `value()` is what the request sends, `file` a chosen file, `text` what was typed.
export class Field {
  // changed(): is called when the value changes. say(text, isError): tells what a camera or a microphone does.
  constructor(column, number, changed, say) {
    this.column = column;
    this.file = null;
    this.id = `field-${number}`;
    this.say = say;
    this.node = element("div");
    if (column.suffixes) this.buildFile(changed);
    else this.buildText(changed);
  }

  buildText(changed) {
    this.input = element("textarea", { id: this.id, rows: String(MAX_TEXT_ROWS), spellcheck: "false" });
    this.input.addEventListener("input", changed);
    this.node.append(element("label", { for: this.id }, this.column.name), this.input);
  }

  buildFile(changed) {
    const accept = this.column.suffixes.join(",");
    this.input = element("input", { id: this.id, type: "file", accept });
    const preview = element("div");
    const take = (file) => {
      this.file = file ?? null;
      preview.replaceChildren();
      if (this.file) this.show(preview);
      changed();
    };
    // Take a file that the person did not choose from the disk; the control names it then.
    this.take = (file) => {
      const transfer = new DataTransfer();
      transfer.items.add(file);
      this.input.files = transfer.files;
      take(file);
    };
    this.input.addEventListener("change", () => take(this.input.files[0]));
    const drop = element("div", { className: "drop" }, this.input, preview);
    drop.append(element("p", { className: "quiet" }, "Choose a file, or drop it here."));
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      take(event.dataTransfer.files[0]);
    });
    const make = { ".jpg": makeCamera, ".wav": makeMicrophone }[this.column.suffixes.find((suffix) => [".jpg", ".wav"].includes(suffix))];
    this.device = make?.(this.take, this.say);
    if (this.device) drop.append(this.device.node);
    this.node.append(element("label", { for: this.id }, this.column.name), drop);
  }

  show(preview) {
    const source = URL.createObjectURL(this.file);
    const medium = this.file.type.split("/")[0];
    if (medium === "image") {
      this.image = element("img", { src: source, alt: `the chosen picture ${this.file.name}` });
      this.frame = element("div", { className: "preview" }, this.image);
      preview.append(this.frame);
    } else if (medium === "audio" || medium === "video") {
      preview.append(element(medium, { src: source, controls: true }));
    }
  }

  // Fill the field from an example: a text, or a File.
  fill(value) {
    if (this.column.suffixes) return this.take(value);
    this.input.value = value;
    this.input.dispatchEvent(new Event("input"));
  }

  // Leave the form: switch a camera or a microphone off.
  close() {
    this.device?.stop();
  }

  get text() { return this.column.suffixes ? "" : this.input.value; }

  get isEmpty() { return this.column.suffixes ? this.file === null : this.input.value.trim() === ""; }

  async value() {
    if (!this.column.suffixes) return this.input.value;
    const bytes = new Uint8Array(await this.file.arrayBuffer());
    let letters = "";
    for (let start = 0; start < bytes.length; start += 32768) {
      letters += String.fromCharCode(...bytes.subarray(start, start + 32768));
    }
    return { base64: btoa(letters) };
  }
}
