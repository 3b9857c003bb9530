// A pad to draw on: white on black, as the digits were that such models learn from.

const PEN = 26; // of 280: about as thick as in the data sets of digits
const STEP = 14;

export class Pad {
  // onChange gets nothing; called after each stroke.
  constructor(canvas, say, onChange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.say = say;
    this.onChange = onChange;
    this.pen = { x: canvas.width / 2, y: canvas.height / 2, down: false };
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.end());
    canvas.addEventListener("keydown", (event) => this.press(event));
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    Object.assign(this.context, { strokeStyle: "#fff", lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    this.pen.down = false;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  line(to) {
    this.context.beginPath();
    this.context.moveTo(this.pen.x, this.pen.y);
    this.context.lineTo(to.x, to.y);
    this.context.stroke();
    Object.assign(this.pen, to);
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    Object.assign(this.pen, this.at(event));
    this.isDrawing = true;
    this.line(this.pen);
  }

  go(event) {
    if (this.isDrawing) (event.getCoalescedEvents?.() ?? [event]).forEach((each) => this.line(this.at(each)));
  }

  end() {
    if (this.isDrawing) this.onChange();
    this.isDrawing = false;
  }

  press(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key === " ") {
      this.pen.down = !this.pen.down;
      this.say(this.pen.down ? "The pen is down." : "The pen is up.");
      if (this.pen.down) this.line(this.pen);
      else this.onChange();
    } else if (moves[event.key]) {
      const within = (value) => Math.min(this.canvas.width - PEN / 2, Math.max(PEN / 2, value));
      const to = { x: within(this.pen.x + moves[event.key][0]), y: within(this.pen.y + moves[event.key][1]) };
      if (this.pen.down) this.line(to);
      else Object.assign(this.pen, to);
    } else return;
    event.preventDefault();
  }

  // The drawing as a PNG file, cut to a square around the ink as the data sets of digits are;
  // margin: of the square's side, on each side. null: nothing is drawn.
  async file(margin) {
    const { width, height } = this.canvas;
    const pixels = this.context.getImageData(0, 0, width, height).data;
    let [left, top, right, bottom] = [width, height, -1, -1];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (pixels[4 * (y * width + x)] > 127) {
          [left, right] = [Math.min(left, x), Math.max(right, x)];
          [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
        }
      }
    }
    if (right < 0) return null;
    const side = Math.round((Math.max(right - left, bottom - top) + 1) / (1 - 2 * margin));
    const cut = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const context = cut.getContext("2d");
    context.fillRect(0, 0, side, side);
    context.drawImage(this.canvas, Math.round((side - left - right - 1) / 2), Math.round((side - top - bottom - 1) / 2));
    const blob = await new Promise((resolve) => cut.toBlob(resolve, "image/png"));
    return new File([blob], "drawing.png", { type: "image/png" });
  }
}
