// A chart of lines on uPlot: zoom, hover, logarithmic axes. What is drawn is a `spec`:
// { title, x, y, log, logX, unit, zero, fromZero, final, top, integers, note, lines: [{ label,
// legend, colour, x, y, low, high, dash, width, pale, points, told, level }] }.
// `low` and `high` make a band, `level` is a horizontal line, `told` names each x.
const PLACES = 2000; // of x: where lines share few values (seconds), x is rounded to these
const MOST_TOLD = 8; // lines in the box at the cursor

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

class Chart extends Card {
  constructor(host, controls = []) {
    super(host, controls, 'logarithmic y axis');
  }

  remove() {
    super.remove();
    this.u?.destroy();
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
    const fit = 2 * (side ? height - 60 : width - 60) / label.length;
    const pixels = Math.max(9, Math.min(13, fit));
    const isSaid = fit < 9 && titled(label) === titled(this.spec.title); // too long, and above
    const room = (side ? 34 : 70) * k;
    return {
      label: isSaid ? '' : label,
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
      const words = `${told(value)}${this.spec.unit ?? ''}${spread}`;
      rows.push(this.row(line, line.label, words, line === near.line));
    }
    if (rest > 0) rows.push(html('p', {
      class: 'at'
    }, `and ${rest} more`));
    this.showBox(rows, u.over, left);
  }

  // The chart at twice the size of the screen's.
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
    const ratio = large.ctx.canvas.width / this.size().width;
    const lines = new Map(this.lines.map(line => [line.legend ?? line.label, line]));
    this.saveImage(large.ctx.canvas, ratio, [...lines.values()].slice(0, 40));
    large.destroy();
    host.remove();
  }

  // The lines that are shown, a row for each point.
  numbers() {
    const rows = [
      ['line', this.spec.x, this.spec.y, 'lowest', 'highest', 'name']
    ];
    for (const line of this.lines) {
      if (line.level) rows.push([line.label, '', line.y[0]]);
      line.x.forEach((x, i) => rows.push([line.label, x, line.y[i], line.low?.[i], line.high?.[i],
        line.told?.[i]
      ]));
    }
    return rows;
  }
}
