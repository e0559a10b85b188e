// A chart of lines on uPlot: title, zoom, hover, logarithmic axes, PNG. What is drawn is a `spec`:
// { title, x, y, log, logX, unit, zero, fromZero, final, top, integers, note, lines: [{ label,
// legend, colour, x, y, low, high, dash, width, pale, points, told, level }] }.
// `low` and `high` make a band, `level` is a horizontal line, `told` names each x.
const PLACES = 2000; // of x: where lines share few values (seconds), x is rounded to these
const MOST_TOLD = 8; // lines in the box at the cursor
const html = (tag, attributes = {}, ...content) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element[name] = value;
    else if (name === 'colour') {
      element.dataset.colour = value;
      element.style.background = seen(value);
    } else if (value !== false && value !== null) element.setAttribute(name, value === true ? '' :
      value);
  }
  element.append(...content);
  return element;
};

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  if (window.matchMedia('print').matches) return false;
  return chosen ? chosen === 'dark' : window.matchMedia('(prefers-color-scheme: dark)').matches;
};
const themed = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The same hue on a dark page, light enough to be seen there.
function seen(colour) {
  if (!isDark() || !/^#[0-9a-f]{6}$/i.test(colour)) return colour;
  const parts = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
  const light = 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2];
  const share = Math.max(0, Math.min(0.6, (125 - light) / 150));
  return '#' + parts.map(p => Math.round(p + (255 - p) * share).toString(16).padStart(2, '0')).join(
    '');
}
const titled = text => text.charAt(0).toUpperCase() + text.slice(1);
// Numbers too close for ticks between them: rounding has made them differ.
const isOne = (a, b) => Math.abs(b - a) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b));
const faint = (colour, alpha) => colour + Math.round(255 * alpha).toString(16).padStart(2, '0');

// A number for people: 64k, 0.02, 1e-6.
function short(value) {
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) {
    const [digits, power] = value.toExponential(3).split('e');
    if (size >= 1e6 && size < 1e9) return `${+(value / 1e6).toPrecision(6)}M`;
    return `${+digits}e${+power}`;
  }
  return size >= 1e4 ? `${+(value / 1e3).toPrecision(6)}k` : String(+value.toPrecision(6));
}
// Labels of ticks: with 10k on the axis, 8k and not 8000.
function ticksOf(values) {
  const large = values.some(value => Math.abs(value) >= 1e4 && Math.abs(value) < 1e6);
  return values.map(value => (large && Math.abs(value) >= 1e3 && Math.abs(value) < 1e4 ?
    `${+(value / 1e3).toPrecision(6)}k` : short(value)));
}
const told = value => value === null || value === undefined ? 'not finite' :
  Math.abs(value) >= 1e5 && Number.isInteger(value) ? value.toLocaleString('en') :
  String(+value.toPrecision(4));

// Ticks of a logarithmic axis: powers of ten, or also 2 and 5 times, or more, at most `room`.
function logTicks(low, high, room) {
  let found = [];
  const first = Math.floor(Math.log10(low));
  const last = Math.ceil(Math.log10(high));
  for (const factors of [
      [1],
      [1, 2, 5],
      [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]
    ]) {
    found = [];
    for (let power = first; power <= last; power++) {
      for (const factor of factors) {
        const tick = +(factor * 10 ** power).toPrecision(3);
        if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
      }
    }
    if (found.length >= 4) break;
  }
  const every = Math.ceil(found.length / Math.max(2, room));
  return found.filter((_, i) => i % every === 0);
}

// All lines over one x, as uPlot wants them. null is a gap, undefined no value at this x.
function joined(lines, logX) {
  const all = new Set();
  for (const line of lines)
    for (const x of line.x) all.add(x);
  let xs = Float64Array.from(all).sort();
  let place = x => x;
  if (logX) xs = xs.filter(x => x > 0);
  if (xs.length > PLACES) {
    const [a, b] = [xs[0], xs[xs.length - 1]];
    const n = PLACES - 1;
    place = logX ?
      x => Math.exp(Math.log(a) + Math.round(Math.log(x / a) / Math.log(b / a) * n) * Math.log(b /
        a) / n) :
      x => a + Math.round((x - a) / (b - a) * n) * (b - a) / n;
    xs = Float64Array.from(new Set(Array.from(xs, place))).sort();
  }
  const index = new Map(Array.from(xs, (x, i) => [x, i]));
  const columns = [Array.from(xs)];
  for (const line of lines) {
    for (const values of line.low ? [line.y, line.low, line.high] : [line.y]) {
      const column = new Array(xs.length);
      line.x.forEach((x, i) => {
        const at = logX && x <= 0 ? undefined : index.get(place(x));
        if (at !== undefined) column[at] = values[i];
      });
      columns.push(column);
    }
  }
  return columns;
}

class Chart {
  // `controls`: elements next to the title, such as the choice of the metric.
  constructor(host, controls = []) {
    this.zoom = null;
    this.title = html('h3');
    this.plot = html('div', {
      class: 'plot'
    });
    this.box = html('div', {
      class: 'told',
      hidden: true
    });
    this.log = html('input', {
      type: 'checkbox',
      'aria-label': 'logarithmic y axis'
    });
    this.log.onchange = () => {
      this.chosenLog = this.log.checked;
      this.zoom = null;
      this.draw(this.spec);
    };
    const button = (text, label, onclick) => html('button', {
      type: 'button',
      title: label,
      'aria-label': label,
      onclick
    }, text);
    this.tools = html('div', {
        class: 'tools'
      }, ...controls,
      html('label', {
        title: 'logarithmic y axis'
      }, this.log, 'log'),
      button('+', 'zoom in', () => this.scale(0.5)),
      button('\u2212', 'zoom out', () => this.scale(2)),
      button('reset', 'show all (double click)', () => this.reset()),
      button('PNG', 'save as an image', () => this.save()));
    this.card = html('section', {
      class: 'chart'
    }, this.title, this.tools, this.plot, this.box);
    host.append(this.card);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.plot);
  }

  remove() {
    this.observer.disconnect();
    this.u?.destroy();
    this.card.remove();
  }

  fit() {
    const width = this.plot.clientWidth;
    if (this.u && width && width !== this.u.width) this.u.setSize(this.size());
  }

  size() {
    const width = Math.max(200, this.plot.clientWidth);
    return {
      width,
      height: Math.round(Math.min(360, Math.max(240, width * 0.62)))
    };
  }

  reset() {
    this.zoom = null;
    this.u?.setData(this.u.data);
  }

  // Show a part of x around the middle, or more of it.
  scale(factor) {
    if (!this.u) return;
    const {
      min,
      max,
      distr
    } = this.u.scales.x;
    const [into, out] = distr === 3 ? [Math.log, Math.exp] : [v => v, v => v];
    const middle = (into(min) + into(max)) / 2;
    const half = (into(max) - into(min)) / 2 * factor;
    const xs = this.u.data[0];
    const x = [Math.max(out(middle - half), xs[0]), Math.min(out(middle + half), xs[xs.length -
      1])];
    if (isOne(...x)) return;
    this.zoom = x[0] === xs[0] && x[1] === xs[xs.length - 1] ? null : {
      x,
      y: null
    };
    this.u.setData(this.u.data);
  }

  draw(spec) {
    this.spec = spec;
    this.title.textContent = titled(spec.title);
    const log = this.chosenLog ?? spec.log;
    this.log.checked = log;
    this.lines = spec.lines.filter(line => line.x.length || line.level);
    this.u?.destroy();
    this.u = null;
    this.box.hidden = true;
    this.plot.classList.toggle('empty', !this.lines.length);
    this.plot.replaceChildren();
    if (!this.lines.length) {
      this.plot.append(spec.empty ?? 'no run that is shown has logged this');
      return;
    }
    this.data = joined(this.lines, spec.logX);
    // zero has no logarithm: with zeros in the data the axis is linear below the smallest value
    let least = Infinity;
    let hasZero = false;
    for (const column of this.data.slice(1)) {
      for (const value of column) {
        if (value > 0 && value < least) least = value;
        else if (value === 0) hasZero = true;
      }
    }
    this.threshold = spec.zero ? Math.max(least, 1) : least;
    const distr = !log || least === Infinity ? 1 : hasZero || spec.zero ? 4 : 3;
    if (distr === 3) {
      this.data = this.data.map((column, i) => i ? column.map(v => v <= 0 ? null : v) : column);
    }
    this.distr = distr;
    this.u = new uPlot(this.options(1), this.data, this.plot);
  }

  // What uPlot draws; `k` times as large for a file.
  options(k) {
    const {
      spec,
      distr
    } = this;
    this.series = [null]; // of uPlot's series, the line that each belongs to
    const series = [{}];
    const bands = [];
    for (const line of this.lines) {
      const colour = seen(line.colour);
      const points = {
        show: line.points ?? (line.x.length < 2),
        size: 5 * k,
        fill: colour
      };
      const width = (line.width ?? 2) * k;
      const dash = line.dash?.map(part => part * k);
      this.series.push(line);
      series.push({
        stroke: line.pale ? faint(colour, 0.45) : colour,
        width,
        dash,
        points,
        spanGaps: false
      });
      if (!line.low) continue;
      const i = series.length;
      for (let k = 0; k < 2; k++) {
        this.series.push(null);
        series.push({
          stroke: 'transparent',
          width: 0,
          points: {
            show: false
          }
        });
      }
      bands.push({
        series: [i + 1, i],
        fill: faint(colour, 0.16)
      });
    }
    const {
      width,
      height
    } = this.size();
    return {
      width: width * k,
      height: height * k,
      legend: {
        show: false
      },
      padding: [12 * k, 14 * k, 0, 0],
      focus: {
        alpha: 0.25
      },
      cursor: {
        drag: {
          x: true,
          y: true,
          uni: 30,
          setScale: false
        },
        focus: {
          prox: 40
        },
        points: {
          show: (u, i) => this.series[i] !== null,
          size: 7
        },
        dataIdx: (u, i, at) => this.nearest(i, at),
        bind: {
          dblclick: () => () => {
            this.reset();
          }
        },
      },
      scales: {
        x: {
          time: false,
          distr: spec.logX ? 3 : 1,
          range: () => this.zoom?.x ?? this.rangeX(this.data[0][0], this.data[0].at(-1))
        },
        y: {
          distr,
          log: 10,
          asinh: this.threshold,
          range: (u, a, b) => this.zoom?.y ?? this.rangeY(distr, a, b)
        },
      },
      axes: [this.axis(spec.x, 0, spec.logX ? 3 : 1, k), this.axis(spec.y, 1, distr, k)],
      series,
      bands,
      hooks: {
        setSelect: [u => this.select(u)],
        setCursor: [u => this.tell(u)],
        draw: [u => this.levels(u, k)]
      },
    };
  }

  axis(label, side, distr, k) {
    const text = themed('--text');
    const {
      width,
      height
    } = this.size();
    const pixels = Math.max(9, Math.min(13, 2 * (side ? height - 60 : width - 60) / label
    .length));
    const room = (side ? 34 : 70) * k;
    return {
      label,
      labelSize: (side ? 22 : 26) * k,
      labelFont: `${pixels * k}px system-ui, sans-serif`,
      font: `${12 * k}px system-ui, sans-serif`,
      stroke: text,
      grid: {
        stroke: themed('--grid'),
        width: k
      },
      ticks: {
        show: false
      },
      border: {
        show: !side,
        stroke: themed('--grid'),
        width: k
      },
      gap: 5 * k,
      labelGap: 0,
      space: room,
      incrs: !side && this.spec.integers ? [1, 2, 5, 10, 20, 50, 100, 200, 500] : undefined,
      splits: distr === 1 ? undefined : (u, i, low, high) => this.splits(distr, low, high, (side ?
        u.bbox.height : u.bbox.width) / devicePixelRatio / room),
      filter: (u, splits) => splits,
      values: (u, splits) => ticksOf(splits),
      size: side ? (u, values) => (12 + 7 * Math.max(3, ...(values ?? []).map(v => v.length))) *
        k : 26 * k,
    };
  }

  splits(distr, low, high, room) {
    if (distr === 3) return logTicks(low, high, room);
    const ticks = logTicks(Math.max(low, this.threshold), high, room - 1);
    return low <= 0 ? [0, ...ticks] : ticks;
  }

  rangeX(low, high) {
    if (low === undefined) return [0, 1];
    if (isOne(low, high)) return this.spec.logX ? [low / 2, low * 2] : [low - 0.5, low + 0.5];
    const edge = this.spec.integers ? (high - low) * 0.02 : 0;
    if (!this.spec.logX && !this.spec.integers && low > 0 && low < 0.2 * high) return [0, high];
    return this.spec.logX ? [low, high] : [low - edge, high + edge];
  }

  rangeY(distr, low, high) {
    if (low === null) return distr === 3 ? [0.1, 1] : [0, 1];
    for (const line of this.lines) {
      if (!line.level) continue;
      low = Math.min(low, line.y[0]);
      high = Math.max(high, line.y[0]);
    }
    if (this.spec.top) high = Math.max(high, this.spec.top); // panels of errors have one scale
    if (distr === 3) return isOne(low, high) ? [low / 2, high * 2] : [low / 1.15, high * 1.15];
    if (distr === 4) return [0, high * 1.1 || 1];
    let top = high;
    if (this.spec.final) top = Math.max(1, Math.min(high, 2 * this.spec
    .final)); // the first epochs may leave the chart
    const fromZero = low >= 0 && (this.spec.fromZero || low < 0.4 * top);
    const bottom = this.spec.zero || fromZero ? 0 : low;
    const room = isOne(bottom, top) ? Math.abs(top) * 0.1 || 1 : 0.05 * (top - bottom);
    return [bottom ? bottom - room : 0, top + room];
  }

  // uPlot asks for the point of a line at the cursor: the nearest that has a value.
  nearest(i, at) {
    const column = this.data[i];
    if (i === 0 || column[at] !== undefined) return at;
    const far = Math.max(at, column.length - at);
    for (let step = 1; step <= far; step++) {
      if (column[at - step] !== undefined) return at - step;
      if (column[at + step] !== undefined) return at + step;
    }
    return at;
  }

  select(u) {
    const {
      left,
      top,
      width,
      height
    } = u.select;
    if (width < 4 && height < 4) return;
    const x = [u.posToVal(left, 'x'), u.posToVal(left + width, 'x')];
    const isBox = height > 0 && height < u.over.clientHeight - 2;
    const hasX = width > 0 && width < u.over.clientWidth - 2;
    const y = isBox ? [u.posToVal(top + height, 'y'), u.posToVal(top, 'y')] : null;
    if (!isOne(...x) && !(y && isOne(...y))) this.zoom = {
      x: hasX ? x : this.zoom?.x ?? null,
      y
    };
    u.setSelect({
      left: 0,
      top: 0,
      width: 0,
      height: 0
    }, false);
    u.setData(u.data);
  }

  // Dashed horizontal lines: the net without lesion, chance.
  levels(u, k) {
    const {
      ctx,
      bbox
    } = u;
    for (const line of this.lines) {
      if (!line.level) continue;
      const y = Math.round(u.valToPos(line.y[0], 'y', true));
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.save();
      ctx.strokeStyle = seen(line.colour);
      ctx.lineWidth = k * devicePixelRatio;
      ctx.setLineDash((line.dash ?? [6, 4]).map(part => part * k * devicePixelRatio));
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.restore();
    }
  }

  // The values at the cursor, the line that is nearest in bold.
  tell(u) {
    const {
      left,
      top,
      idx
    } = u.cursor;
    if (left === undefined || left < 0 || idx === null || idx === undefined) {
      this.box.hidden = true;
      return;
    }
    let found = [];
    for (let i = 1; i < this.series.length; i++) {
      const line = this.series[i];
      const at = u.cursor.idxs[i];
      const value = line && !line.level && at !== null ? this.data[i][at] : undefined;
      if (value === undefined || value === null) continue;
      const y = u.valToPos(value, 'y');
      const x = u.valToPos(this.data[0][at], 'x');
      if (Math.abs(x - left) > 60 && found.length) continue;
      const band = line.low ? [this.data[i + 1][at], this.data[i + 2][at]] : null;
      found.push({
        line,
        value,
        at,
        y,
        band,
        far: Math.hypot(x - left, y - top)
      });
    }
    if (!found.length) {
      this.box.hidden = true;
      return;
    }
    const near = found.reduce((a, b) => (b.far < a.far ? b : a));
    found = found.sort((a, b) => Math.abs(a.y - near.y) - Math.abs(b.y - near.y));
    const rest = found.length - MOST_TOLD;
    found = found.slice(0, MOST_TOLD).sort((a, b) => a.y - b.y);
    const x = this.data[0][near.at];
    const named = near.line.told?.[near.line.x.indexOf(x)];
    const rows = [html('p', {
      class: 'at'
    }, named ?? `${this.spec.x.split(' (')[0]} ${told(x)}`)];
    for (const {
        line,
        value,
        band
      }
      of found) {
      const spread = band && band[1] > band[0] ? ` (${told(band[0])} to ${told(band[1])})` : '';
      rows.push(html('p', {
          class: line === near.line ? 'near' : ''
        },
        html('i', {
          colour: line.colour,
          class: line.dash ? 'dashed' : ''
        }),
        html('span', {}, line.label), html('b', {},
          `${told(value)}${this.spec.unit ?? ''}${spread}`)));
    }
    if (rest > 0) rows.push(html('p', {
      class: 'at'
    }, `and ${rest} more`));
    this.box.replaceChildren(...rows);
    this.box.hidden = false;
    const over = u.over.getBoundingClientRect();
    const card = this.card.getBoundingClientRect();
    const width = this.box.offsetWidth;
    const at = over.left - card.left + left;
    const side = at + 16 + width < card.width ? at + 16 : Math.max(4, at - width - 16);
    this.box.style.left = `${Math.min(side, Math.max(4, card.width - width - 4))}px`;
    this.box.style.top = `${over.bottom - card.top + 2}px`;
    if (card.width > 500) this.box.style.top = `${over.top - card.top + 8}px`;
  }

  // The chart with title and legend as a file, for a slide: twice the size of the screen's.
  async save() {
    if (!this.u) return;
    const host = html('div', {
      class: 'aside'
    });
    document.body.append(host);
    const large = new uPlot({
      ...this.options(2),
      cursor: {
        show: false
      }
    }, this.data, host);
    await new Promise(requestAnimationFrame);
    const source = large.ctx.canvas;
    const ratio = source.width / this.size().width;
    const entries = [...new Map(this.lines.map(line => [line.legend ?? line.label, line]))
    .values()].slice(0, 40);
    const canvas = document.createElement('canvas');
    const context = canvas.getContext('2d');
    const font = 13 * ratio;
    context.font = `${font}px system-ui, sans-serif`;
    const places = [];
    let [x, y] = [12 * ratio, 0];
    for (const line of entries) {
      const text = (line.legend ?? line.label).slice(0, 80);
      const width = context.measureText(text).width + 44 * ratio;
      if (x + width > source.width && x > 12 * ratio)[x, y] = [12 * ratio, y + 20 * ratio];
      places.push([line, text, x, y]);
      x += width;
    }
    const head = 40 * ratio;
    canvas.width = source.width;
    const {
      note
    } = this.spec;
    canvas.height = head + source.height + y + (note ? 56 : 36) * ratio;
    context.fillStyle = themed('--back');
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = themed('--text');
    context.font = `600 ${18 * ratio}px system-ui, sans-serif`;
    context.fillText(titled(this.spec.title), 12 * ratio, 27 * ratio, canvas.width - 24 * ratio);
    context.drawImage(source, 0, head);
    context.font = `${font}px system-ui, sans-serif`;
    for (const [line, text, left, down] of places) {
      const middle = head + source.height + down + 14 * ratio;
      context.fillStyle = seen(line.colour);
      context.fillRect(left, middle - 6 * ratio, 22 * ratio, (line.width < 2 ? 1.5 : 3) * ratio);
      context.fillStyle = themed('--text');
      context.fillText(text, left + 28 * ratio, middle);
    }
    context.fillStyle = themed('--soft');
    context.fillText(note ?? '', 12 * ratio, canvas.height - 12 * ratio, canvas.width - 24 *
      ratio);
    large.destroy();
    host.remove();
    canvas.toBlob(blob => {
      const link = html('a', {
        href: URL.createObjectURL(blob),
        download: `${this.spec.title.replace(/[^\w.-]+/g, '_').slice(0, 80)}.png`
      });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }
}
