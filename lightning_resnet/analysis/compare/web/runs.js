// The runs of a comparison: charts of any metric, the table of runs, the difference of two.
class Explorer {
  constructor(host, data, series) {
    this.host = host;
    this.hidden = new Set(); // paths of runs that are switched off
    this.picked = []; // paths of the two runs whose settings are compared
    this.state = {
      x: data.x,
      group: 'setting',
      colour: 'setting',
      smooth: 0,
      logX: false
    };
    this.where = '';
    this.fits = () => true;
    this.sort = {
      name: null,
      up: true
    };
    this.charts = [];
    this.take(data, series);
    this.columns = new Set(data.columns.filter(column => column.shown).map(column => column
    .name));
    this.build();
    for (const metric of data.start) this.add(metric);
    this.update();
  }

  // Data of the first time, or newer ones.
  take(data, series) {
    this.data = data;
    this.names = data.columns.map(column => column.name);
    this.byName = new Map(data.columns.map(column => [column.name, column]));
    data.runs.forEach((run, i) => {
      run.index = i;
      run.series = series[i];
    });
  }

  value(run, name) {
    const column = this.byName.get(name);
    return column.values ? column.values[run.index] : column.value;
  }

  text(run, name) {
    const value = this.value(run, name);
    if (value === null || value === undefined) return '';
    if (typeof value !== 'number') return value;
    const {
      digits
    } = this.byName.get(name);
    if (digits) return value.toFixed(digits);
    if (Math.abs(value) >= 1e5) return value.toLocaleString('en', {
      maximumFractionDigits: 0
    });
    return String(+value.toPrecision(6));
  }

  build() {
    const choice = (label, entries, key) => {
      const select = html('select', {
        'aria-label': label,
        onchange: () => {
          this.state[key] = select.value;
          this.update();
        }
      });
      select.dataset.key = key;
      this.fill(select, entries, this.state[key]);
      return html('label', {}, label, select);
    };
    const keys = this.keys();
    const smooth = html('input', {
      type: 'range',
      min: 0,
      max: 0.99,
      step: 0.01,
      value: 0,
      'aria-label': 'smoothing'
    });
    const shown = html('output', {}, '0');
    smooth.oninput = () => {
      this.state.smooth = Number(smooth.value);
      shown.textContent = smooth.value;
      this.drawLater();
    };
    const logX = html('input', {
      type: 'checkbox',
      'aria-label': 'logarithmic x axis'
    });
    logX.onchange = () => {
      this.state.logX = logX.checked;
      this.charts.forEach(c => {
        c.chart.zoom = null;
      });
      this.draw();
    };
    this.tools = html('div', {
        class: 'bar'
      },
      choice('x axis', this.data.axes, 'x'),
      choice('one line for each', [
        ['setting', 'setting (mean of its seeds)'],
        ['run', 'run'], ...keys
      ], 'group'),
      choice('colour by', [
        ['setting', 'setting'],
        ['run', 'run'], ...keys
      ], 'colour'),
      html('label', {}, 'smoothing', smooth, shown),
      html('label', {
        class: 'tick'
      }, logX, 'logarithmic x'),
      html('button', {
        type: 'button',
        onclick: () => this.add(this.data.metrics[0].name, true)
      }, 'Add a chart'));
    this.legend = html('div', {
      class: 'legend'
    });
    this.styles = html('p', {
      class: 'small'
    });
    this.grid = html('div', {
      class: 'grid'
    });
    this.filter = html('input', {
      type: 'search',
      placeholder: "depth == 56 and lr < 0.1, or a word",
      'aria-label': 'only runs for which',
      spellcheck: 'false'
    });
    this.filter.oninput = () => {
      this.where = this.filter.value;
      this.update();
    };
    this.problem = html('span', {
      class: 'problem',
      role: 'status'
    });
    this.picker = html('div', {
      class: 'columns'
    });
    this.count = html('span', {
      class: 'small'
    });
    const search = html('input', {
      type: 'search',
      placeholder: 'search columns',
      'aria-label': 'search columns'
    });
    search.oninput = () => {
      for (const label of this.picker.children) label.hidden = !label.textContent.toLowerCase()
        .includes(search.value.toLowerCase());
    };
    this.table = html('table', {
      class: 'runs'
    });
    this.difference = html('div', {
      class: 'difference'
    });
    const all = html('button', {
      type: 'button',
      onclick: () => {
        this.hidden.clear();
        this.update();
      }
    }, 'Show all');
    const none = html('button', {
      type: 'button',
      onclick: () => {
        this.fitting().forEach(run => this.hidden.add(run.path));
        this.update();
      }
    }, 'Hide all');
    this.host.replaceChildren(this.tools, this.legend, this.styles, this.grid,
      html('h2', {}, 'Runs'),
      html('div', {
        class: 'bar'
      }, html('label', {
        class: 'wide'
      }, 'only runs for which', this.filter), all, none, this.count, this.problem),
      html('details', {
        class: 'choose'
      }, html('summary', {}, 'Columns'), search, this.picker),
      html('div', {
        class: 'table'
      }, this.table), this.difference);
    this.fillPicker();
  }

  fillPicker() {
    this.picker.replaceChildren(...this.data.columns.map(column => {
      const box = html('input', {
        type: 'checkbox'
      });
      box.checked = this.columns.has(column.name);
      box.onchange = () => {
        if (box.checked) this.columns.add(column.name);
        else this.columns.delete(column.name);
        this.drawTable();
      };
      return html('label', {
        title: column.name
      }, box, column.title);
    }));
  }

  // Columns by which runs can be parted: those of settings, the varying first.
  keys() {
    const settings = this.data.columns.filter(column => column.setting);
    settings.sort((a, b) => Number(!a.values) - Number(!b.values));
    return settings.map(column => [column.name, column.title]);
  }

  fill(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => html('option', {
      value
    }, text)));
    select.value = chosen;
  }

  add(metric, scroll = false) {
    const select = html('select', {
      'aria-label': 'metric'
    });
    this.fill(select, this.data.metrics.map(m => [m.name, m.title]), metric);
    const entry = {
      metric
    };
    select.onchange = () => {
      entry.metric = select.value;
      entry.chart.chosenLog = undefined;
      entry.chart.zoom = null;
      this.drawOne(entry);
    };
    const close = html('button', {
      type: 'button',
      title: 'remove this chart',
      'aria-label': 'remove this chart'
    }, '\u00d7');
    close.onclick = () => {
      this.charts.splice(this.charts.indexOf(entry), 1);
      entry.chart.remove();
    };
    entry.select = select;
    entry.chart = new Chart(this.grid, [select]);
    entry.chart.tools.append(close);
    this.charts.push(entry);
    if (this.groups) this.drawOne(entry);
    if (scroll) entry.chart.card.scrollIntoView({
      block: 'nearest'
    });
  }

  fitting() {
    return this.data.runs.filter(run => this.fits(run));
  }

  update() {
    try {
      this.fits = filterOf(this.where, this.names, (run, name) => this.value(run, name));
      this.problem.textContent = '';
    } catch (error) {
      this.problem.textContent = error.message;
    }
    this.group();
    this.drawLegend();
    this.drawTable();
    this.draw();
  }

  // What runs are told apart by: a text, and for numbers their order.
  label(run, key) {
    if (key === 'setting') return run.row;
    if (key === 'run') return run.label;
    const value = this.text(run, key);
    const title = this.byName.get(key).title;
    return value === '' ? `${title} unset` : this.byName.get(key).bare ? value :
      `${title} ${value}`;
  }

  group() {
    const {
      group,
      colour
    } = this.state;
    const colours = new Map();
    const order = key => run => key === 'setting' || key === 'run' ? run.index : this.value(run,
      key) ?? '';
    const sorted = key => [...this.data.runs].sort((a, b) => isBefore(order(key)(a), order(key)(
      b)));
    for (const run of sorted(colour)) colours.set(this.label(run, colour), null);
    const {
      palette,
      ramp
    } = this.data;
    const n = colours.size;
    let i = 0;
    for (const name of colours.keys()) {
      const isFixed = colour === 'setting' && Object.hasOwn(this.data.colours, name);
      const fixed = isFixed ? this.data.colours[name] : null;
      const step = Math.round(i * (ramp.length - 1) / Math.max(1, n - 1));
      colours.set(name, fixed ?? (n <= palette.length ? palette[i] : ramp[step]));
      i += 1;
    }
    this.groups = new Map();
    for (const run of sorted(group)) {
      const name = this.label(run, group);
      if (!this.groups.has(name)) this.groups.set(name, {
        name,
        runs: [],
        colours: new Set()
      });
      const found = this.groups.get(name);
      found.runs.push(run);
      found.colours.add(colours.get(this.label(run, colour)));
    }
    for (const found of this.groups.values()) {
      // a line over runs of several colours has none of them
      found.colour = found.colours.size === 1 ? [...found.colours][0] : '#888888';
      found.thin = found.runs.every(run => run.reference) && this.data.runs.some(run => !run
        .reference);
    }
    this.colours = colours;
  }

  drawLegend() {
    const entries = [];
    for (const group of this.groups.values()) {
      const runs = group.runs.filter(run => this.fits(run));
      if (!runs.length) continue;
      const box = html('input', {
        type: 'checkbox'
      });
      box.checked = runs.some(run => !this.hidden.has(run.path));
      box.onchange = () => {
        for (const run of runs)
          if (box.checked) this.hidden.delete(run.path);
          else this.hidden.add(run.path);
        this.update();
      };
      const only = html('button', {
        type: 'button',
        class: 'only',
        title: `show only ${group.name}`
      }, 'only');
      only.onclick = event => {
        event.preventDefault();
        this.data.runs.forEach(run => this.hidden.add(run.path));
        runs.forEach(run => this.hidden.delete(run.path));
        this.update();
      };
      const line = html('i', {
        colour: group.colour,
        class: group.thin ? 'thin' : ''
      });
      entries.push(html('label', {
        class: box.checked ? '' : 'off'
      }, box, line, html('span', {}, group.name), only));
    }
    this.legend.replaceChildren(...entries);
  }

  draw() {
    this.charts.forEach(entry => this.drawOne(entry));
  }

  drawLater() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  drawOne(entry) {
    const metric = this.data.metrics.find(m => m.name === entry.metric) ?? this.data.metrics[0];
    const [axis] = this.data.axes.filter(([name]) => name === this.state.x);
    const lines = [];
    const final = [];
    const isShown = run => this.fits(run) && !this.hidden.has(run.path);
    for (const group of this.groups.values()) {
      const runs = group.runs.filter(isShown);
      if (!runs.length) continue;
      metric.parts.forEach((part, i) => {
        const isEach = this.state.group === 'run';
        const words = metric.words[i] ? `, ${metric.words[i]}` : '';
        const style = {
          colour: group.colour,
          dash: i ? [6, 4] : undefined,
          legend: group.name
        };
        const width = (group.thin ? 1 : 2) * (i ? 0.8 : 1);
        const done = runs.filter(run => run.status === 'finished');
        const parts = [
          [done, false], ...runs.filter(run => run.status !== 'finished').map(run => [
            [run], true
          ])
        ];
        for (const [some, pale] of parts) {
          const curves = some.map(run => this.curve(run, part)).filter(curve => curve.x
            .length);
          if (!curves.length) continue;
          const line = this.smooth(mean(curves));
          const alone = pale && !isEach ? `, run ${some[0].id}` : '';
          const state = pale ? ` (${some[0].status})` : '';
          lines.push({
            ...line,
            ...style,
            pale,
            width: pale ? 1 : width,
            label: `${group.name}${words}${alone}${state}`
          });
          const last = line.y.filter(y => y !== null).at(-1);
          if (last !== undefined && !pale) final.push(last);
        }
      });
    }
    const positive = final.filter(y => y > 0);
    const isError = metric.kind === 'error';
    const highest = Math.max(...positive, 0);
    const isWide = isError && highest > this.data.wide * Math.max(1, Math.min(...positive));
    const solid = metric.words[0] ? `solid: ${metric.words[0]}, dashed: ${metric.words[1]}` : '';
    const spread = this.state.group === 'run' ? '' : 'lines: mean; bands: lowest to highest';
    const long = lines.some(line => line.x.length >= 5);
    entry.chart.draw({
      title: metric.title.replace(/, %$/, ''),
      x: axis[1],
      y: metric.axis,
      unit: metric.unit,
      note: [spread, solid].filter(Boolean).join('; '),
      lines,
      logX: this.state.logX,
      log: isWide || metric.log,
      zero: isError,
      final: isError && long && !isWide ? highest : null,
    });
    const dashed = this.charts.some(({
      metric: name
    }) => this.data.metrics.find(m => m.name === name)?.parts.length > 1);
    const words = [];
    if (this.state.group !== 'run') words.push('lines: mean; bands: lowest to highest');
    if (dashed) words.push('solid: validation, dashed: training (clean)');
    if (this.data.runs.some(run => run.status !== 'finished' && run.series)) words.push(
      'thin and pale: not finished');
    if (this.state.smooth) words.push('smoothed');
    this.styles.textContent = [words.join('; '), this.data.note].filter(Boolean).join('. ');
  }

  // One metric of one run: x in the unit of the axis, at the rows that have a finite value of it.
  curve(run, metric) {
    const rows = run.series?.find(part => Object.hasOwn(part.values, metric));
    if (!rows) return {
      x: [],
      y: []
    };
    const y = rows.values[metric];
    const x = this.places(run, rows);
    if (!x) return {
      x: [],
      y: []
    };
    const has = y.map(value => value !== null);
    return {
      x: x.filter((_, i) => has[i]),
      y: y.filter((_, i) => has[i])
    };
  }

  places(run, rows) {
    const {
      x
    } = this.state;
    if (x === 'step') return rows.step;
    if (x === 'epoch') return run.steps_per_epoch ? rows.step.map(s => s / run.steps_per_epoch) :
      rows.epoch;
    if (x === 'images') return run.batch_size ? rows.step.map(s => s * run.batch_size) : null;
    return rows[x] ?? null;
  }

  // A running mean over points, without the pull to the first one (as Adam's bias correction).
  smooth(line) {
    const share = this.state.smooth;
    if (!share) return line;
    const smoothed = values => {
      let [sum, weight] = [0, 0];
      return values.map(value => {
        if (value === null || value === undefined) return value;
        sum = share * sum + (1 - share) * value;
        weight = share * weight + 1 - share;
        return sum / weight;
      });
    };
    return {
      ...line,
      y: smoothed(line.y),
      low: line.low && smoothed(line.low),
      high: line.high && smoothed(line.high)
    };
  }

  drawTable() {
    const columns = this.data.columns.filter(column => this.columns.has(column.name));
    const heads = [html('th', {
      title: 'shown in the charts'
    }, 'show'), html('th', {
      title: 'pick two runs to compare their settings'
    }, 'compare')];
    heads.push(...columns.map(column => {
      const th = html('th', {
        title: column.name,
        class: column.text ? 'left' : ''
      }, column.title);
      if (this.sort.name === column.name) th.setAttribute('aria-sort', this.sort.up ?
        'ascending' : 'descending');
      pressable(th, () => {
        const up = this.sort.name === column.name ? !this.sort.up : true;
        this.sort = {
          name: column.name,
          up
        };
        this.drawTable();
      });
      return th;
    }));
    const hasOwn = this.data.runs.some(run => !run.reference); // references are pale next to them
    const runs = this.fitting();
    const {
      name,
      up
    } = this.sort;
    if (name) runs.sort((a, b) => (up ? 1 : -1) * isBefore(this.value(a, name) ?? '', this.value(
      b, name) ?? ''));
    const rows = runs.map(run => {
      const show = html('input', {
        type: 'checkbox',
        'aria-label': `show ${run.label}`
      });
      show.checked = !this.hidden.has(run.path);
      show.onchange = () => {
        if (show.checked) this.hidden.delete(run.path);
        else this.hidden.add(run.path);
        this.update();
      };
      const pick = html('input', {
        type: 'checkbox',
        'aria-label': `compare ${run.label}`
      });
      pick.checked = this.picked.includes(run.path);
      pick.onchange = () => {
        this.picked = pick.checked ? [...this.picked, run.path].slice(-2) : this.picked
          .filter(path => path !== run.path);
        this.drawTable();
      };
      const colour = this.colours.get(this.label(run, this.state.colour));
      const cells = columns.map(column => html('td', {
        class: column.text ? 'left' : ''
      }, this.text(run, column.name)));
      return html('tr', {
        class: run.reference && hasOwn ? 'reference' : ''
      }, html('td', {
        class: 'left'
      }, show, html('i', {
        colour
      })), html('td', {
        class: 'left'
      }, pick), ...cells);
    });
    this.table.replaceChildren(html('tr', {}, ...heads), ...rows);
    const shown = runs.filter(run => !this.hidden.has(run.path)).length;
    this.count.textContent = `${shown} of ${this.data.runs.length} runs shown`;
    this.drawDifference();
  }

  drawDifference() {
    const pair = this.picked.map(path => this.data.runs.find(run => run.path === path)).filter(
      Boolean);
    if (pair.length < 2) {
      const words = pair.length ?
        `${pair[0].label}: pick one more run to see what sets the two apart.` : '';
      this.difference.replaceChildren(html('p', {
        class: 'small'
      }, words));
      return;
    }
    const rows = [];
    for (const column of this.data.columns) {
      if (!column.setting || !column.values) continue;
      const [a, b] = pair.map(run => this.text(run, column.name));
      if (a !== b) rows.push(html('tr', {}, ...[column.title, a || 'unset', b || 'unset'].map(
        text => html('td', {
          class: 'left'
        }, text))));
    }
    const head = html('tr', {}, ...['setting', ...pair.map(run => run.label)].map(text => html(
      'th', {
        class: 'left'
      }, text)));
    const table = html('table', {}, head, ...rows);
    sortable(table);
    this.difference.replaceChildren(html('h3', {}, 'What sets the two runs apart'),
      rows.length ? html('div', {
        class: 'table'
      }, table) : html('p', {}, 'No setting differs.'));
  }

  // Newer data of the same runs: what was chosen stays.
  renew(data, series) {
    const known = new Set(this.names);
    this.take(data, series);
    for (const column of data.columns)
      if (column.shown && !known.has(column.name)) this.columns.add(column.name);
    for (const entry of this.charts) this.fill(entry.select, data.metrics.map(m => [m.name, m
      .title
    ]), entry.metric);
    for (const select of this.tools.querySelectorAll('select')) {
      const own = {
        x: data.axes,
        group: [
          ['setting', 'setting (mean of its seeds)'],
          ['run', 'run'], ...this.keys()
        ],
        colour: [
          ['setting', 'setting'],
          ['run', 'run'], ...this.keys()
        ]
      };
      this.fill(select, own[select.dataset.key], this.state[select.dataset.key]);
    }
    this.fillPicker();
    this.update();
  }
}

// Mean, lowest and highest of curves where all have values. Where their x differ, values between
// two points lie on the line through them.
function mean(curves) {
  if (curves.length === 1) return curves[0];
  const start = Math.max(...curves.map(curve => curve.x[0]));
  const end = Math.min(...curves.map(curve => curve.x.at(-1)));
  let xs = [...new Set(curves.flatMap(curve => curve.x))].filter(x => start <= x && x <= end).sort((
    a, b) => a - b);
  if (xs.length > PLACES) xs = xs.filter((_, i) => i % Math.ceil(xs.length / PLACES) === 0);
  const y = new Array(xs.length).fill(0);
  const low = new Array(xs.length).fill(Infinity);
  const high = new Array(xs.length).fill(-Infinity);
  for (const curve of curves) {
    let at = 0;
    xs.forEach((x, i) => {
      while (curve.x[at + 1] <= x) at++;
      let value = curve.y[at];
      if (curve.x[at] !== x) {
        const next = curve.y[at + 1];
        const share = (x - curve.x[at]) / (curve.x[at + 1] - curve.x[at]);
        value = value === null || next === null ? null : value + share * (next - value);
      }
      if (value === null || y[i] === null) {
        y[i] = null;
        low[i] = null;
        high[i] = null;
        return;
      }
      y[i] += value / curves.length;
      low[i] = Math.min(low[i], value);
      high[i] = Math.max(high[i], value);
    });
  }
  return {
    x: xs,
    y,
    low,
    high
  };
}

// What `page.packed` made: base64 of zlib of JSON; steps and times as differences.
async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  const series = await new Response(stream).json();
  for (const run of series) {
    for (const rows of run ?? []) {
      let step = 0;
      rows.step = rows.step.map(d => (step += d));
      let time = 0;
      if (rows.time) rows.time = rows.time.map(d => (time += d) / 10);
      if (rows.step.length && rows.values) {
        for (const name in rows.values)
          if (!Array.isArray(rows.values[name])) rows.values[name] = new Array(rows.step.length)
            .fill(rows.values[name]);
      }
    }
  }
  return series;
}
