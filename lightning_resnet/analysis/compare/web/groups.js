// The figures of measurements: each with a legend, all in groups of which one can choose.
const shownCharts = []; // functions that draw the charts of one figure
const inspected = []; // the charts of each figure
const hiddenNets = new Set(); // names in legends, the same in all figures

// The charts and maps of one figure, with one legend.
function startFigure(script) {
  const grid = html('div', {
    class: 'grid'
  });
  script.after(grid);
  const {
    charts
  } = JSON.parse(script.textContent);
  const drawn = charts.map(spec => ({
    spec,
    chart: spec.values ? new HeatMap(grid) : new Chart(grid)
  }));
  const places = spec => JSON.stringify([spec.value, spec.x, spec.y, spec.xs, spec.ys]);
  for (const {
      spec,
      chart
    }
    of drawn.filter(one => one.spec.values)) {
    const isTwin = other => other.spec !== spec && places(other.spec) === places(spec);
    chart.others = drawn.filter(isTwin).map(other => other.chart);
  }
  inspected.push(drawn.map(({
    chart
  }) => chart));
  const entries = entriesOf(charts);
  grid.before(html('div', {
    class: 'legend'
  }, ...entries.map(entry => entry.label)));
  const draw = () => {
    for (const {
        name,
        box,
        label
      }
      of entries) {
      box.checked = !hiddenNets.has(name);
      label.classList.toggle('off', !box.checked);
    }
    for (const {
        spec,
        chart
      }
      of drawn) {
      if (spec.values) {
        chart.card.hidden = hiddenNets.has(spec.legend);
        if (!chart.card.hidden) chart.draw(spec);
      } else {
        const lines = spec.lines.filter(line => !hiddenNets.has(line.legend));
        chart.draw({
          ...spec,
          lines,
          empty: 'all lines are hidden'
        });
      }
    }
  };
  draw();
  shownCharts.push(draw);
}

// The nets in a figure's legend: a click hides one in all figures of the page.
function entriesOf(charts) {
  const lines = new Map();
  for (const line of charts.flatMap(spec => spec.lines ?? [spec])) {
    if (!lines.has(line.legend)) lines.set(line.legend, line);
  }
  return [...lines].map(([name, line]) => {
    const box = html('input', {
      type: 'checkbox'
    });
    box.onchange = () => {
      if (box.checked) hiddenNets.delete(name);
      else hiddenNets.add(name);
      shownCharts.forEach(draw => draw());
    };
    const label = html('label', {}, box, html('i', {
      colour: line.colour,
      class: line.dash ? 'dashed' : ''
    }), html('span', {}, name));
    return {
      name,
      box,
      label
    };
  });
}

// Lists to choose the parts that are shown: of which nets, which measure, which stage of training.
function startGroups(root) {
  const parts = [...root.querySelectorAll('section[data-measure]')];
  if (!parts.length) return;
  const nothing = html('p', {
    class: 'small',
    role: 'status',
    hidden: true
  }, 'Nothing of this was measured; what is left out is said above.');
  const lists = [];
  const show = () => {
    for (const part of parts) {
      part.hidden = lists.some(([name, list]) => list.value && part.dataset[name] !== list.value);
    }
    nothing.hidden = parts.some(part => !part.hidden);
  };
  for (const name of Object.keys(parts[0].dataset)) {
    const values = new Set(parts.map(part => part.dataset[name]));
    if (values.size < 2) continue;
    const list = html('select', {
      'aria-label': name,
      onchange: show
    }, html('option', {
      value: ''
    }, 'all'), ...[...values].map(value => html('option', {
      value
    }, value)));
    lists.push([name, list]);
  }
  parts[0].before(html('div', {
    class: 'bar groups'
  }, ...lists.map(([name, list]) => html('label', {}, name, list))), nothing);
}
