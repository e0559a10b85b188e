// Start of the page: tables, charts of measurements, the runs, light or dark.
const shownCharts = []; // functions that draw the charts of one figure
const inspected = []; // the charts of each figure
const hiddenNets = new Set(); // names in legends, the same in all figures
let explorer = null;

function start(root) {
  for (const table of root.querySelectorAll('table')) sortable(table);
  for (const script of root.querySelectorAll('script.charts')) startFigure(script);
}

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

function redraw() {
  for (const draw of shownCharts) draw();
  for (const line of document.querySelectorAll('i[data-colour]')) line.style.background = seen(line
    .dataset.colour);
  if (explorer) explorer.update();
}

async function explore() {
  const source = document.getElementById('data');
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const series = await unpacked(data.series);
  explorer = new Explorer(document.getElementById('explorer'), data, series);
}

const theme = document.getElementById('theme');
theme.hidden = false;
theme.onclick = () => {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
  redraw();
};
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
window.matchMedia('print').addEventListener('change', redraw);
start(document);
const ready = explore();

// A page that `compare --serve` gave asks for a newer one; what was chosen stays.
const EVERY_MS = 5000;
const live = document.getElementById('live');
let tag = null;

async function renew() {
  let answer;
  try {
    answer = await fetch(location.href, {
      cache: 'no-store',
      headers: tag ? {
        'If-None-Match': tag
      } : {}
    });
    if (answer.status === 304) return;
    if (!answer.ok) throw new Error(answer.statusText);
  } catch {
    live.textContent = 'the server does not answer';
    return;
  }
  tag = answer.headers.get('ETag');
  const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const data = JSON.parse(page.getElementById('data').textContent);
  const report = document.importNode(page.getElementById('report'), true);
  const old = document.getElementById('report');
  const open = new Set([...old.querySelectorAll('details[open] summary')].map(summary => summary
    .textContent));
  for (const summary of report.querySelectorAll('summary')) summary.parentNode.open = open.has(
    summary.textContent);
  inspected.splice(0).flat().forEach(chart => chart.remove());
  shownCharts.length = 0;
  old.replaceWith(report);
  start(report);
  explorer.renew(data, await unpacked(data.series));
  live.textContent = `drawn at ${new Date().toLocaleTimeString()}`;
}

async function follow() {
  await ready;
  await renew();
  setTimeout(follow, EVERY_MS);
}
if (!live.hidden) follow();
