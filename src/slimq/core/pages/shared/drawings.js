// Draws what a policy sees, each kind of observation in its own way.

const WIDTH = 640;
const HEIGHT = 480;

/** Colours of the style sheet, which depend on the light or dark scheme. */
function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

function line(context, colour, width, ...points) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = "round";
  context.beginPath();
  points.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}

function disc(context, colour, x, y, radius) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function drawCartPole(context, [position, , angle], { colour }) {
  const x = WIDTH / 2 + (position * WIDTH) / 4.8;
  const ground = HEIGHT * 0.7;
  line(context, colour("line"), 2, [0, ground], [WIDTH, ground]);
  context.fillStyle = colour("accent");
  context.fillRect(x - 40, ground - 20, 80, 36);
  const tip = [x + 170 * Math.sin(angle), ground - 20 - 170 * Math.cos(angle)];
  line(context, colour("object"), 12, [x, ground - 20], tip);
  disc(context, colour("ink"), x, ground - 20, 5);
}

function drawAcrobot(context, [cosine, sine, cosine2, sine2], { colour }) {
  const length = 100;
  const [x, y] = [WIDTH / 2, HEIGHT / 2 + 20];
  const goal = y - length;
  const first = [x + length * sine, y + length * cosine];
  const both = Math.atan2(sine, cosine) + Math.atan2(sine2, cosine2);
  const second = [first[0] + length * Math.sin(both), first[1] + length * Math.cos(both)];
  line(context, colour("line"), 2, [0, goal], [WIDTH, goal]);
  line(context, colour("object"), 14, [x, y], first, second);
  for (const joint of [[x, y], first]) disc(context, colour("accent"), ...joint, 8);
}

function drawMountainCar(context, [position], { colour }) {
  const place = (at) => [
    ((at + 1.2) / 1.8) * WIDTH,
    HEIGHT * 0.9 - (Math.sin(3 * at) * 0.45 + 0.55) * HEIGHT * 0.65,
  ];
  const slope = Array.from({ length: 91 }, (_, index) => place(-1.2 + index * 0.02));
  line(context, colour("muted"), 3, ...slope);
  const [flagX, flagY] = place(0.5);
  line(context, colour("good"), 3, [flagX, flagY], [flagX, flagY - 50], [flagX + 24, flagY - 40]);
  const [x, y] = place(position);
  disc(context, colour("accent"), x, y - 12, 12);
}

function drawLunarLander(context, [x, y, , , angle, , left, right], { colour, action }) {
  const ground = HEIGHT * 0.88;
  const centre = [WIDTH / 2 + (x * WIDTH) / 2, ground - 22 - y * HEIGHT * 0.55];
  line(context, colour("muted"), 2, [0, ground], [WIDTH, ground]);
  for (const side of [-1, 1]) {
    const flag = WIDTH / 2 + side * 64;
    line(context, colour("good"), 2, [flag, ground], [flag, ground - 30]);
  }
  context.save();
  context.translate(...centre);
  context.rotate(-angle);
  if (action === 2) line(context, colour("bad"), 8, [0, 14], [0, 38]);
  if (action === 1) line(context, colour("bad"), 5, [-18, -4], [-34, -4]);
  if (action === 3) line(context, colour("bad"), 5, [18, -4], [34, -4]);
  context.fillStyle = colour("accent");
  context.beginPath();
  [[-16, 12], [-18, -4], [-10, -16], [10, -16], [18, -4], [16, 12]].forEach(([px, py]) =>
    context.lineTo(px, py),
  );
  context.fill();
  line(context, colour(left ? "good" : "object"), 4, [-14, 10], [-24, 22]);
  line(context, colour(right ? "good" : "object"), 4, [14, 10], [24, 22]);
  context.restore();
}

const CELLS = { S: "soft", H: "accent", G: "good", C: "bad" };

function drawGrid(context, [state], { colour, report }) {
  const rows = report.drawing.grid;
  const columns = rows[0].length;
  const size = Math.min(WIDTH / columns, HEIGHT / rows.length);
  const left = (WIDTH - size * columns) / 2;
  const top = (HEIGHT - size * rows.length) / 2;
  rows.forEach((row, y) =>
    [...row].forEach((cell, x) => {
      context.fillStyle = colour(CELLS[cell] ?? "panel");
      context.fillRect(left + x * size + 1, top + y * size + 1, size - 2, size - 2);
    }),
  );
  const x = left + ((state % columns) + 0.5) * size;
  const y = top + (Math.floor(state / columns) + 0.5) * size;
  disc(context, colour("ink"), x, y, size * 0.28);
}

const OBJECTS = { 2: "muted", 4: "object", 5: "open", 6: "accent", 7: "object", 8: "good", 9: "bad" };
const VIEW = 7;

function drawMiniGrid(context, cells, { colour }) {
  const size = HEIGHT / VIEW;
  const left = (WIDTH - HEIGHT) / 2;
  for (let x = 0; x < VIEW; x += 1) {
    for (let y = 0; y < VIEW; y += 1) {
      const kind = cells[(x * VIEW + y) * 3];
      context.fillStyle = colour(kind === 0 ? "line" : (OBJECTS[kind] ?? "panel"));
      context.fillRect(left + x * size + 1, y * size + 1, size - 2, size - 2);
    }
  }
  const [x, y] = [left + size * 3.5, size * 6.5];
  context.fillStyle = colour("ink");
  context.beginPath();
  [[0, -0.32], [0.28, 0.3], [-0.28, 0.3]].forEach(([dx, dy]) =>
    context.lineTo(x + dx * size, y + dy * size),
  );
  context.fill();
}

function drawMinAtar(context, field, { report }) {
  const [rows, columns, channels] = report.observation.shape;
  const size = Math.min(WIDTH / columns, HEIGHT / rows);
  const left = (WIDTH - size * columns) / 2;
  for (let cell = 0; cell < rows * columns; cell += 1) {
    for (let channel = channels - 1; channel >= 0; channel -= 1) {
      if (!field[cell * channels + channel]) continue;
      context.fillStyle = `hsl(${(channel * 360) / channels + 20} 65% 55%)`;
      const [x, y] = [left + (cell % columns) * size, Math.floor(cell / columns) * size];
      context.fillRect(x + 1, y + 1, size - 2, size - 2);
    }
  }
}

function drawValues(context, values, { colour }) {
  const shown = Array.from(values.subarray(0, 64));
  const most = Math.max(1e-9, ...shown.map(Math.abs));
  const width = WIDTH / shown.length;
  line(context, colour("line"), 1, [0, HEIGHT / 2], [WIDTH, HEIGHT / 2]);
  context.fillStyle = colour("accent");
  shown.forEach((value, index) => {
    const height = (value / most) * HEIGHT * 0.45;
    context.fillRect(index * width + 1, HEIGHT / 2 - Math.max(height, 0), width - 2, Math.abs(height));
  });
}

function drawFrame(context, pixels, { report }) {
  const { shape, axis } = report.observation;
  const [rows, columns] = shape.filter((_, place) => place !== axis);
  const image = context.createImageData(columns, rows);
  pixels.forEach((value, place) => image.data.set([value, value, value, 255], place * 4));
  context.canvas.width = columns;
  context.canvas.height = rows;
  context.putImageData(image, 0, 0);
}

const DRAWINGS = {
  cartpole: drawCartPole,
  acrobot: drawAcrobot,
  mountaincar: drawMountainCar,
  lunarlander: drawLunarLander,
  grid: drawGrid,
  minigrid: drawMiniGrid,
  minatar: drawMinAtar,
  values: drawValues,
  frames: drawFrame,
};

/** Draws the newest frame and, where it shows, the action that was chosen on it. */
export function draw(canvas, report, frame, action) {
  const { kind } = report.drawing;
  const context = canvas.getContext("2d");
  if (kind !== "frames") {
    const scale = Math.min(2, Math.max(1, globalThis.devicePixelRatio || 1));
    canvas.width = WIDTH * scale;
    canvas.height = HEIGHT * scale;
    context.scale(scale, scale);
  }
  DRAWINGS[kind](context, frame, { colour: colours(), report, action });
}
