// A map on a canvas: values over two axes as colours, flat with contours, or as a surface to turn.
// What is drawn is a `spec`: { title, legend, colour, x, y, xs, ys, values, value, log, low, high,
// colours, smooth, names, path, note }. `values` is a row for each of `ys`, null where there
// is no number; `colours` are those from `low` to `high`; `smooth` maps are interpolated and have
// contours; `names` are [those of xs, those of ys]; `path` is { x, y, told }.
const LEVELS = 18; // contours from the lowest to the highest colour
const MISSING = '#8c8c8c'; // where there is no number
const ROOM = { // around the map, in points
  left: 62,
  right: 18,
  top: 8,
  axis: 44,
  bar: 48
};

// Round ticks of a linear axis, at most `most`.
function linearTicks(low, high, most, isInteger) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 5, 10].map(factor => factor * power).find(each => each >= rough * 0.999);
  if (isInteger) step = Math.max(1, step);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    found.push(+(i * step).toPrecision(6));
  }
  return found;
}

class HeatMap extends Card {
  constructor(host) {
    super(host, [], 'logarithmic colours');
    this.others = []; // maps of the same places: their values are told too, and they turn too
    this.isSurface = false;
    this.turn = {
      around: 0.65,
      up: 0.55
    };
    this.surface = html('button', {
      type: 'button',
      title: 'show as a surface; drag to turn',
      'aria-label': 'show as a surface',
      'aria-pressed': 'false',
      onclick: () => {
        const isSurface = !this.isSurface;
        for (const map of this.twins()) {
          map.isSurface = isSurface;
          map.surface.setAttribute('aria-pressed', isSurface);
          map.draw(map.spec);
        }
      }
    }, 'surface');
    this.logLabel.after(this.surface);
    this.canvas = html('canvas', {
      role: 'img'
    });
    this.over = html('div', {
      class: 'over'
    });
    this.chosen = html('div', {
      class: 'chosen',
      hidden: true
    });
    this.over.append(this.chosen);
    this.plot.classList.add('map');
    this.plot.append(this.canvas, this.over);
    this.over.onpointerdown = event => this.press(event);
    this.over.onpointermove = event => this.move(event);
    this.over.onpointerup = event => this.release(event);
    this.over.onpointerleave = () => {
      this.box.hidden = true;
    };
    this.over.ondblclick = () => this.reset();
  }

  twins() {
    return [this, ...this.others.filter(map => !map.card.hidden)];
  }

  fit() {
    const width = this.plot.clientWidth;
    if (this.spec && width && width !== this.width) this.draw(this.spec);
  }

  reset() {
    this.zoom = null;
    this.draw(this.spec);
  }

  // Show a part around the middle, or more of it.
  scale(factor) {
    const full = this.extent();
    const now = this.zoom ?? full;
    const part = axis => {
      const [a, b] = now[axis];
      const half = (b - a) / 2 * factor;
      const middle = (a + b) / 2;
      return [Math.max(middle - half, full[axis][0]), Math.min(middle + half, full[axis][1])];
    };
    this.show({
      x: part('x'),
      y: part('y')
    });
  }

  // Show a part, not less than two points wide.
  show(zoom) {
    const full = this.extent();
    const isWide = axis => {
      const places = this.spec[axis === 'x' ? 'xs' : 'ys'];
      return zoom[axis][1] - zoom[axis][0] >= Math.abs(places[1] - places[0]) * 0.999;
    };
    if (!isWide('x') || !isWide('y')) return;
    const isAll = ['x', 'y'].every(axis => zoom[axis].every((end, i) => isOne(end, full[axis][i])));
    this.zoom = isAll ? null : zoom;
    this.draw(this.spec);
  }

  // The ends of both axes: cells reach half a step beyond the outer points.
  extent() {
    const ends = places => {
      const half = this.spec.smooth ? 0 : (places[1] - places[0]) / 2;
      return [places[0] - half, places.at(-1) + half];
    };
    return {
      x: ends(this.spec.xs),
      y: ends(this.spec.ys)
    };
  }

  // A value as a part of the way from the lowest to the highest colour; NaN if there is none.
  share(value) {
    const {
      low,
      high
    } = this.spec;
    if (value === null) return NaN;
    if (this.isLog && value <= 0) return 0;
    const part = this.isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high -
      low);
    return Math.min(1, Math.max(0, part));
  }

  draw(spec) {
    this.spec = spec;
    this.title.textContent = titled(spec.title);
    this.canvas.setAttribute('aria-label', spec.title);
    this.logLabel.hidden = !(spec.low > 0);
    this.surface.hidden = !spec.smooth;
    this.isLog = spec.low > 0 && (this.chosenLog ?? spec.log);
    this.log.checked = this.isLog;
    this.box.hidden = true;
    this.width = this.plot.clientWidth;
    this.shares = spec.values.map(row => row.map(value => this.share(value)));
    this.table = Array.from({
      length: 256
    }, (_, i) => this.mixed(i / 255));
    const ratio = devicePixelRatio;
    const side = this.side();
    const {
      width,
      height
    } = this.size();
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.paint(this.canvas, ratio);
    Object.assign(this.over.style, {
      left: `${this.left()}px`,
      top: `${ROOM.top}px`,
      width: `${side}px`,
      height: `${side}px`,
      touchAction: 'pan-y'
    });
  }

  side() {
    return Math.max(140, Math.min(400, this.width - ROOM.left - ROOM.right));
  }

  size() {
    return {
      width: Math.max(220, this.width),
      height: ROOM.top + this.side() + ROOM.axis + ROOM.bar
    };
  }

  // Points left of the map, which stands in the middle.
  left() {
    const free = this.width - this.side() - ROOM.left - ROOM.right;
    return ROOM.left + Math.max(0, Math.floor(free / 2));
  }

  // Red, green and blue at a part of the way through the colours.
  mixed(part) {
    const {
      colours
    } = this.spec;
    const at = part * (colours.length - 1);
    const i = Math.min(Math.floor(at), colours.length - 2);
    const parse = text => [1, 3, 5].map(k => parseInt(text.slice(k, k + 2), 16));
    const [a, b] = [parse(colours[i]), parse(colours[i + 1])];
    return a.map((value, k) => Math.round(value + (at - i) * (b[k] - value)));
  }

  fill(part) {
    return isNaN(part) ? MISSING : `rgb(${this.table[Math.round(part * 255)].join(' ')})`;
  }

  // Draw all on a canvas, `ratio` pixels for each point of the screen.
  paint(canvas, ratio) {
    const {
      width,
      height
    } = this.size();
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.font = '12px system-ui, sans-serif';
    context.translate(this.left(), ROOM.top);
    const view = this.zoom ?? this.extent();
    if (this.isSurface && this.spec.smooth) this.paintSurface(context, view);
    else this.paintFlat(context, view, ratio);
    this.paintBar(context);
  }

  // Where a place of the axes is, in points from the upper left corner.
  place(view, x, y) {
    const side = this.side();
    return [(x - view.x[0]) / (view.x[1] - view.x[0]) * side,
      (view.y[1] - y) / (view.y[1] - view.y[0]) * side
    ];
  }

  paintFlat(context, view, ratio) {
    const side = this.side();
    context.save();
    context.beginPath();
    context.rect(0, 0, side, side);
    context.clip();
    if (this.spec.smooth) {
      this.paintSmooth(context, view, ratio);
      this.paintContours(context, view);
    } else this.paintCells(context, view);
    if (this.spec.path) this.paintPath(context, view);
    context.restore();
    context.strokeStyle = themed('--grid');
    context.strokeRect(0, 0, side, side);
    this.paintAxes(context, view);
  }

  paintCells(context, view) {
    const {
      xs,
      ys
    } = this.spec;
    const half = [(xs[1] - xs[0]) / 2, (ys[1] - ys[0]) / 2];
    this.shares.forEach((row, j) => row.forEach((part, i) => {
      const [left, bottom] = this.place(view, xs[i] - half[0], ys[j] - half[1]);
      const [right, top] = this.place(view, xs[i] + half[0], ys[j] + half[1]);
      context.fillStyle = this.fill(part);
      context.fillRect(left, top, right - left + 0.3, bottom - top + 0.3);
    }));
  }

  // Colours between the points, which are evenly spaced, by bilinear interpolation.
  paintSmooth(context, view, ratio) {
    const {
      xs,
      ys
    } = this.spec;
    const n = Math.round(this.side() * ratio);
    const pixels = new ImageData(n, n);
    const position = (places, value) => {
      const at = (value - places[0]) / (places[1] - places[0]);
      const i = Math.max(0, Math.min(places.length - 2, Math.floor(at)));
      return [i, at - i];
    };
    const across = Array.from({
      length: n
    }, (_, k) => position(xs, view.x[0] + (k + 0.5) / n * (view.x[1] - view.x[0])));
    const grey = [140, 140, 140];
    for (let k = 0; k < n; k++) {
      const [j, down] = position(ys, view.y[1] - (k + 0.5) / n * (view.y[1] - view.y[0]));
      const [low, high] = [this.shares[j], this.shares[j + 1]];
      for (let l = 0; l < n; l++) {
        const [i, right] = across[l];
        const part = (1 - down) * ((1 - right) * low[i] + right * low[i + 1]) +
          down * ((1 - right) * high[i] + right * high[i + 1]);
        const colour = isNaN(part) ? grey : this.table[Math.round(part * 255)];
        pixels.data.set(colour, 4 * (k * n + l));
        pixels.data[4 * (k * n + l) + 3] = 255;
      }
    }
    const layer = new OffscreenCanvas(n, n);
    layer.getContext('2d').putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0, this.side(), this.side());
  }

  // Lines of one height, by marching squares.
  paintContours(context, view) {
    const {
      xs,
      ys
    } = this.spec;
    context.beginPath();
    for (let j = 0; j + 1 < ys.length; j++) {
      for (let i = 0; i + 1 < xs.length; i++) {
        const corners = [
          [i, j],
          [i + 1, j],
          [i + 1, j + 1],
          [i, j + 1]
        ].map(([a, b]) => [...this.place(view, xs[a], ys[b]), this.shares[b][a] * LEVELS]);
        const heights = corners.map(corner => corner[2]);
        for (let level = Math.ceil(Math.min(...heights)); level < Math.max(...heights); level++) {
          this.crossing(context, corners, level);
        }
      }
    }
    context.strokeStyle = '#0008';
    context.lineWidth = 0.7;
    context.stroke();
  }

  // The lines of one height within a cell: between each two sides that the height crosses.
  crossing(context, corners, level) {
    const found = [];
    corners.forEach((a, k) => {
      const b = corners[(k + 1) % 4];
      if (a[2] <= level === b[2] <= level) return;
      const part = (level - a[2]) / (b[2] - a[2]);
      found.push([a[0] + part * (b[0] - a[0]), a[1] + part * (b[1] - a[1])]);
    });
    for (let k = 0; k + 1 < found.length; k += 2) {
      context.moveTo(...found[k]);
      context.lineTo(...found[k + 1]);
    }
  }

  // White dots with a dark edge, joined by lines, and words at the first and the last.
  paintPath(context, view) {
    const {
      x,
      y,
      told
    } = this.spec.path;
    const places = x.map((value, i) => this.place(view, value, y[i]));
    for (const [colour, edge] of [
        ['#000a', 1],
        ['#fff', 0]
      ]) {
      context.strokeStyle = colour;
      context.fillStyle = colour;
      context.lineWidth = 1.2 + 2 * edge;
      context.beginPath();
      places.forEach(place => context.lineTo(...place));
      context.stroke();
      for (const place of places) {
        context.beginPath();
        context.arc(...place, 2.6 + edge, 0, 7);
        context.fill();
      }
    }
    context.strokeStyle = '#000a';
    context.lineWidth = 2.5;
    for (const i of new Set([0, places.length - 1])) {
      const [left, top] = places[i];
      context.textAlign = left > this.side() - 30 ? 'right' : 'left';
      const at = [left + (left > this.side() - 30 ? -6 : 6), top < 18 ? top + 16 : top - 6];
      context.strokeText(told[i], ...at);
      context.fillText(told[i], ...at);
    }
  }

  paintAxes(context, view) {
    const {
      spec
    } = this;
    const side = this.side();
    context.fillStyle = themed('--text');
    context.textAlign = 'center';
    context.textBaseline = 'top';
    for (const tick of linearTicks(...view.x, side / 55, spec.names)) {
      context.fillText(short(tick), this.place(view, tick, 0)[0], side + 6);
    }
    this.paintText(context, spec.x, side / 2, side + 24, side + 60);
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    for (const tick of linearTicks(...view.y, side / 40, spec.names)) {
      context.fillText(short(tick), -6, this.place(view, 0, tick)[1]);
    }
    context.save();
    context.translate(-46, side / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = 'center';
    this.paintText(context, spec.y, 0, 0, side);
    context.restore();
  }

  // A text that is made as small as it must be.
  paintText(context, text, x, y, room) {
    const {
      font
    } = context;
    const size = Math.max(8, Math.min(13, 13 * room / context.measureText(text).width));
    context.font = `${size}px system-ui, sans-serif`;
    context.fillText(text, x, y, room);
    context.font = font;
  }

  // The colours and what they stand for.
  paintBar(context) {
    const {
      low,
      high,
      value
    } = this.spec;
    const side = this.side();
    const top = side + ROOM.axis + 4;
    for (let k = 0; k < side; k++) {
      context.fillStyle = this.fill(k / side);
      context.fillRect(k, top, 1.5, 10);
    }
    const room = side / 55;
    const ticks = this.isLog ? logTicks(low, high, room) : linearTicks(low, high, room);
    context.fillStyle = themed('--text');
    context.textAlign = 'center';
    context.textBaseline = 'top';
    for (const tick of ticks) context.fillText(short(tick), this.share(tick) * side, top + 14);
    this.paintText(context, value, side / 2, top + 30, side + 60);
  }

  // -- as a surface --

  // Where a point of the surface is seen, and how far away: x and y are -0.5 to 0.5, height 0 to 1.
  seenAt(x, y, height) {
    const {
      around,
      up
    } = this.turn;
    const side = this.side();
    const right = x * Math.cos(around) - y * Math.sin(around);
    const back = x * Math.sin(around) + y * Math.cos(around);
    const rise = (height - 0.5) * 0.6;
    return [side * (0.5 + 0.68 * right),
      side * (0.5 - 0.68 * (rise * Math.cos(up) + back * Math.sin(up))),
      back * Math.cos(up) - rise * Math.sin(up)
    ];
  }

  paintSurface(context, view) {
    const {
      xs,
      ys
    } = this.spec;
    const inside = (places, [a, b]) => [...places.keys()].filter(i => places[i] >= a - 1e-9 &&
      places[i] <= b + 1e-9);
    const columns = inside(xs, view.x);
    const rows = inside(ys, view.y);
    const part = (value, [a, b]) => (value - a) / (b - a) - 0.5;
    this.points = [];
    const grid = rows.map(j => columns.map(i => {
      const point = this.seenAt(part(xs[i], view.x), part(ys[j], view.y), this.shares[j][i]);
      if (!point.some(isNaN)) this.points.push([point, i, j]);
      return [...point, this.shares[j][i]];
    }));
    const cells = [];
    for (let j = 0; j + 1 < rows.length; j++) {
      for (let i = 0; i + 1 < columns.length; i++) {
        const corners = [grid[j][i], grid[j][i + 1], grid[j + 1][i + 1], grid[j + 1][i]];
        const mean = k => corners.reduce((sum, corner) => sum + corner[k], 0) / 4;
        if (!isNaN(mean(3))) cells.push([mean(2), mean(3), corners]);
      }
    }
    this.paintBase(context, view);
    cells.sort((a, b) => b[0] - a[0]);
    context.lineWidth = 0.5;
    context.strokeStyle = '#0005';
    for (const [, height, corners] of cells) {
      context.beginPath();
      corners.forEach(corner => context.lineTo(corner[0], corner[1]));
      context.closePath();
      context.fillStyle = this.fill(height);
      context.fill();
      context.stroke();
    }
  }

  // The square below the surface, with the ends of both axes at the sides that are near.
  paintBase(context, view) {
    const ends = [
      [-0.5, -0.5],
      [0.5, -0.5],
      [0.5, 0.5],
      [-0.5, 0.5]
    ];
    context.strokeStyle = themed('--soft');
    context.beginPath();
    ends.forEach(([x, y]) => context.lineTo(...this.seenAt(x, y, 0)));
    context.closePath();
    context.stroke();
    context.fillStyle = themed('--text');
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    const near = (a, b) => this.seenAt(...a, 0)[2] < this.seenAt(...b, 0)[2] ? a : b;
    const [, y] = near([0, -0.58], [0, 0.58]);
    const [x] = near([-0.58, 0], [0.58, 0]);
    const tell = (text, place) => context.fillText(text, ...this.seenAt(...place, 0).slice(0, 2));
    tell(this.spec.x, [0, 1.15 * y]);
    tell(this.spec.y, [1.15 * x, 0]);
    for (const i of [0, 1]) {
      tell(short(view.x[i]), [0.92 * (i - 0.5), y]);
      tell(short(view.y[i]), [x, 0.92 * (i - 0.5)]);
    }
  }

  // -- the pointer --

  press(event) {
    if (event.pointerType !== 'mouse' && !this.isSurface) return; // a finger scrolls
    this.over.setPointerCapture(event.pointerId);
    this.from = {
      left: event.offsetX,
      top: event.offsetY,
      turn: this.turn
    };
  }

  move(event) {
    const {
      offsetX,
      offsetY
    } = event;
    if (this.from && this.isSurface) {
      this.box.hidden = true;
      for (const map of this.twins()) {
        map.turn = {
          around: this.from.turn.around + (offsetX - this.from.left) / 90,
          up: Math.min(1.5, Math.max(0.05, this.from.turn.up + (offsetY - this.from.top) / 150))
        };
        map.paint(map.canvas, devicePixelRatio);
      }
      return;
    }
    if (this.from) {
      const {
        left,
        top
      } = this.from;
      this.chosen.hidden = false;
      Object.assign(this.chosen.style, {
        left: `${Math.min(left, offsetX)}px`,
        top: `${Math.min(top, offsetY)}px`,
        width: `${Math.abs(offsetX - left)}px`,
        height: `${Math.abs(offsetY - top)}px`
      });
    }
    this.tell(offsetX, offsetY);
  }

  release(event) {
    const {
      from
    } = this;
    this.from = null;
    this.chosen.hidden = true;
    if (!from || this.isSurface) return;
    if (Math.abs(event.offsetX - from.left) < 4 || Math.abs(event.offsetY - from.top) < 4) return;
    const view = this.zoom ?? this.extent();
    const side = this.side();
    const part = ([a, b], one, two) => [one, two].sort((p, q) => p - q).map(at => a + (b - a) *
      Math.min(1, Math.max(0, at / side)));
    this.show({
      x: part(view.x, from.left, event.offsetX),
      y: part(view.y, side - from.top, side - event.offsetY)
    });
  }

  // The point that is nearest to a place of the screen, as [column, row].
  nearest(left, top) {
    if (this.isSurface) {
      const far = ([point]) => Math.hypot(point[0] - left, point[1] - top);
      return this.points.reduce((a, b) => far(b) < far(a) ? b : a).slice(1);
    }
    const view = this.zoom ?? this.extent();
    const side = this.side();
    const index = (places, [a, b], part) => {
      const at = (a + (b - a) * part - places[0]) / (places[1] - places[0]);
      return Math.min(places.length - 1, Math.max(0, Math.round(at)));
    };
    return [index(this.spec.xs, view.x, left / side), index(this.spec.ys, view.y, 1 - top / side)];
  }

  // Both coordinates and the value of each map of these places.
  tell(left, top) {
    if (this.isSurface && !this.points.length) return; // no point in view has a number
    const [i, j] = this.nearest(left, top);
    const {
      spec
    } = this;
    const where = (label, places, at, names) =>
      `${label.replace(', in order of depth', '')}: ${names ? `${names[at]} (${told(places[at])})` : told(places[at])}`;
    const rows = [
      where(spec.x, spec.xs, i, spec.names?.[0]),
      where(spec.y, spec.ys, j, spec.names?.[1])
    ].map(text => html('p', {
      class: 'at'
    }, text));
    for (const map of this.twins()) {
      const value = map.spec.values[j][i];
      rows.push(this.row(map.spec, map.spec.legend, told(value), map === this));
    }
    this.showBox(rows, this.over, left);
  }

  save() {
    const canvas = document.createElement('canvas');
    this.paint(canvas, 2);
    this.saveImage(canvas, 2, []);
  }

  // The map, a row for each point.
  numbers() {
    const {
      spec
    } = this;
    const named = spec.names ? ['name on x', 'name on y'] : [];
    const rows = [
      ['map', spec.x, spec.y, spec.value, ...named]
    ];
    spec.values.forEach((row, j) => row.forEach((value, i) => {
      const names = spec.names ? [spec.names[0][i], spec.names[1][j]] : [];
      rows.push([spec.legend, spec.xs[i], spec.ys[j], value, ...names]);
    }));
    return rows;
  }
}
