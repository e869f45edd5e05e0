// Two views of a region, made here when somebody asks for one: nothing is computed for it elsewhere, and nothing is kept.
// They are aids for looking. Neither tells a forged face from a bona fide one, and the page says so beside them.
(() => {
  const aids = document.querySelector("[data-aids]");
  if (!aids) return;
  const canvas = aids.querySelector("canvas");
  const says = aids.querySelector("[data-aid-says]");
  const [left, top, width, height] = aids.dataset.region.split(" ").map(Number);
  const MOST = 640; // pixels of the longer side of the view
  const QUALITY = 0.9; // of the second saving
  let picture = null;

  // Upright, as the worker saw it: a browser turns it by the same tag.
  const load = async () => {
    const reply = await fetch(aids.dataset.bytes);
    if (!reply.ok) throw new Error("not there");
    return createImageBitmap(await reply.blob());
  };

  const pixelsOf = (image, x, y, w, h) => {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [w, h];
    const pen = sheet.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, x, y, w, h, 0, 0, w, h);
    return [sheet, pen.getImageData(0, 0, w, h)];
  };

  // What is left of each pixel when the mean of its eight neighbours is taken away.
  const noise = (_, { data, width: w, height: h }) => {
    const grey = new Float32Array(w * h);
    for (let i = 0; i < grey.length; i++) grey[i] = (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3;
    const out = new Float32Array(w * h);
    for (let y = 1; y < h - 1; y++) {
      for (let x = 1; x < w - 1; x++) {
        const i = y * w + x;
        let around = -grey[i];
        for (let dy = -w; dy <= w; dy += w) around += grey[i + dy - 1] + grey[i + dy] + grey[i + dy + 1];
        out[i] = Math.abs(grey[i] - around / 8);
      }
    }
    return out;
  };

  // What saving it once more as a JPEG changes.
  const levels = async (sheet, { data, width: w, height: h }) => {
    const blob = await new Promise((done) => sheet.toBlob(done, "image/jpeg", QUALITY));
    const [, again] = pixelsOf(await createImageBitmap(blob), 0, 0, w, h);
    const out = new Float32Array(w * h);
    for (let i = 0; i < out.length; i++) {
      for (let c = 0; c < 3; c++) out[i] += Math.abs(data[4 * i + c] - again.data[4 * i + c]) / 3;
    }
    return out;
  };

  const VIEWS = { noise, levels };

  // The brightest hundredth is white: what differs within the region is seen, and how strong it is at all is not.
  const draw = (values, w, h) => {
    const sorted = Float32Array.from(values).sort();
    const white = Math.max(sorted[Math.floor(0.99 * (sorted.length - 1))], 0.5);
    [canvas.width, canvas.height] = [w, h];
    const pen = canvas.getContext("2d");
    const shown = pen.createImageData(w, h);
    values.forEach((value, i) => {
      const light = Math.min(255, (255 * value) / white);
      shown.data.set([light, light, light, 255], 4 * i);
    });
    pen.putImageData(shown, 0, 0);
  };

  aids.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-aid]");
    if (!button) return;
    says.textContent = "One moment …";
    try {
      picture ??= await load();
      const x = Math.max(0, Math.floor(left));
      const y = Math.max(0, Math.floor(top));
      const w = Math.max(8, Math.min(Math.ceil(width), picture.width - x, MOST));
      const h = Math.max(8, Math.min(Math.ceil(height), picture.height - y, MOST));
      draw(await VIEWS[button.dataset.aid](...pixelsOf(picture, x, y, w, h)), w, h);
      canvas.hidden = false;
      canvas.setAttribute("aria-label", button.dataset.means);
      says.textContent = button.dataset.means;
      for (const other of aids.querySelectorAll("[data-aid]")) other.setAttribute("aria-pressed", String(other === button));
    } catch {
      canvas.hidden = true;
      says.textContent = "The picture cannot be read here.";
    }
  });
})();
