// Draws one (image, map) pair per image; a click on either chooses a patch. DATA comes before.
const { rows, columns, width, tile } = DATA;
const bytes = Uint8Array.from(atob(DATA.features), (c) => c.charCodeAt(0));
const features = new Int8Array(bytes.buffer);
const lengths = new Float32Array(features.length / width);
for (let p = 0; p < lengths.length; p++) {
  let sum = 0;
  for (let d = 0; d < width; d++) sum += features[p * width + d] ** 2;
  lengths[p] = Math.sqrt(sum) || 1;
}

function colour(unit) {
  const place = Math.min(Math.max(unit, 0), 1) * (DATA.colours.length - 1);
  const below = Math.min(Math.floor(place), DATA.colours.length - 2);
  const share = place - below;
  return [0, 1, 2].map((i) =>
    Math.round(DATA.colours[below][i] * (1 - share) + DATA.colours[below + 1][i] * share));
}

function canvasOf(parent) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = tile;
  parent.append(canvas);
  return canvas;
}

const pairs = DATA.names.map((name, index) => {
  const title = document.createElement("h3");
  title.textContent = name;
  const row = document.createElement("div");
  row.className = "pair";
  document.getElementById("pairs").append(title, row);
  const pair = { picture: canvasOf(row), map: canvasOf(row), image: new Image() };
  for (const canvas of [pair.picture, pair.map]) {
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const at = (offset, size, count) =>
        Math.min(Math.max(Math.floor((offset / size) * count), 0), count - 1);
      choose(index, at(event.clientY - box.top, box.height, rows),
        at(event.clientX - box.left, box.width, columns));
    });
  }
  pair.image.onload = () => drawPicture(index);
  pair.image.src = DATA.images[index];
  return pair;
});
let chosen = DATA.start;

function drawPicture(index) {
  const context = pairs[index].picture.getContext("2d");
  context.drawImage(pairs[index].image, 0, 0, tile[1], tile[0]);
  if (chosen[0] !== index) return;
  const down = tile[0] / rows, right = tile[1] / columns;
  for (const [grow, style] of [[3, "#000"], [2, "#fff"], [1, "#ff3c3c"]]) {
    context.strokeStyle = style;
    context.strokeRect(chosen[2] * right - grow + 0.5, chosen[1] * down - grow + 0.5,
      right + 2 * grow - 1, down + 2 * grow - 1);
  }
}

function choose(image, row, column) {
  chosen = [image, row, column];
  const origin = (image * rows + row) * columns + column;
  const cosines = new Float32Array(lengths.length);
  let low = 1;
  for (let p = 0; p < cosines.length; p++) {
    let sum = 0;
    for (let d = 0; d < width; d++) sum += features[p * width + d] * features[origin * width + d];
    cosines[p] = sum / (lengths[p] * lengths[origin]);
    low = Math.min(low, cosines[p]);
  }
  const down = tile[0] / rows, right = tile[1] / columns;
  pairs.forEach((pair, index) => {
    const context = pair.map.getContext("2d");
    for (let p = 0; p < rows * columns; p++) {
      const value = (cosines[index * rows * columns + p] - low) / Math.max(1 - low, 1e-6);
      context.fillStyle = `rgb(${colour(value).join(",")})`;
      context.fillRect((p % columns) * right, Math.floor(p / columns) * down, right, down);
    }
    drawPicture(index);
  });
  document.getElementById("said").textContent =
    `cosine similarity to row ${row}, column ${column} of ${DATA.names[image]}: ` +
    `black ${low.toFixed(2)}, yellow 1.00. Click on any patch.`;
}
choose(...DATA.start);
