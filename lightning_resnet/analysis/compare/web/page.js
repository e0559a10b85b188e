// Start of the page: tables, charts of measurements, the runs, light or dark.
const shownCharts = []; // functions that draw the charts of one figure
const inspected = []; // the charts of each figure
let explorer = null;

function start(root) {
  for (const table of root.querySelectorAll('table')) sortable(table);
  for (const script of root.querySelectorAll('script.charts')) {
    const grid = html('div', {
      class: 'grid'
    });
    script.after(grid);
    const chosen = new Set();
    const {
      charts
    } = JSON.parse(script.textContent);
    const drawn = charts.map(spec => ({
      spec,
      chart: new Chart(grid)
    }));
    inspected.push(drawn.map(({
      chart
    }) => chart));
    const draw = () => {
      for (const {
          spec,
          chart
        }
        of drawn) {
        chart.draw({
          ...spec,
          lines: spec.lines.filter(line => !chosen.has(line.legend))
        });
      }
    };
    grid.before(legendOf(charts, chosen, draw));
    draw();
    shownCharts.push(draw);
  }
}

// The lines of charts that are no runs: a click hides one.
function legendOf(charts, hidden, draw) {
  const lines = new Map();
  for (const line of charts.flatMap(spec => spec.lines)) {
    if (!lines.has(line.legend)) lines.set(line.legend, line);
  }
  const entries = [...lines].map(([name, line]) => {
    const box = html('input', {
      type: 'checkbox'
    });
    box.checked = true;
    const label = html('label', {}, box, html('i', {
      colour: line.colour,
      class: line.dash ? 'dashed' : ''
    }), html('span', {}, name));
    box.onchange = () => {
      if (box.checked) hidden.delete(name);
      else hidden.add(name);
      label.classList.toggle('off', !box.checked);
      draw();
    };
    return label;
  });
  return html('div', {
    class: 'legend'
  }, ...entries);
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
