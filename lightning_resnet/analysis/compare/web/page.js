// Start of the page: tables, charts of measurements, the runs, light or dark.
const shownCharts = [];
let explorer = null;

function start(root) {
  for (const table of root.querySelectorAll('table')) sortable(table);
  for (const script of root.querySelectorAll('script.charts')) {
    const grid = html('div', { class: 'grid' });
    script.after(grid);
    const chosen = new Set();
    const { charts } = JSON.parse(script.textContent);
    const drawn = charts.map(spec => ({ spec, chart: new Chart(grid) }));
    const draw = () => {
      for (const { spec, chart } of drawn) {
        chart.draw({ ...spec, lines: spec.lines.filter(line => !chosen.has(line.legend)) });
      }
    };
    grid.before(legendOf(charts, chosen, draw));
    draw();
    shownCharts.push(draw);
  }
}

// The lines of charts that are no runs: a click hides one.
function legendOf(charts, hidden, draw) {
  const lines = new Map(charts.flatMap(spec => spec.lines).map(line => [line.legend, line]));
  const entries = [...lines].map(([name, line]) => {
    const box = html('input', { type: 'checkbox' });
    box.checked = true;
    const label = html('label', {}, box, html('i', { colour: seen(line.colour), class: line.dash ? 'dashed' : '' }), html('span', {}, name));
    box.onchange = () => {
      if (box.checked) hidden.delete(name); else hidden.add(name);
      label.classList.toggle('off', !box.checked);
      draw();
    };
    return label;
  });
  return html('div', { class: 'legend' }, ...entries);
}

function redraw() {
  for (const draw of shownCharts) draw();
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
