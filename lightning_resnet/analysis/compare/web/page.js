// Start of the page: tables, charts of measurements, the runs, light or dark.
let explorer = null;

function start(root) {
  for (const table of root.querySelectorAll('table')) sortable(table);
  for (const script of root.querySelectorAll('script.charts')) startFigure(script);
  startGroups(root);
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
  tag = answer.headers.get('ETag'); // last: what fails on the way is asked for again
  live.textContent = `drawn at ${new Date().toLocaleTimeString()}`;
}

async function follow() {
  try {
    await ready;
    await renew();
  } catch (problem) {
    live.textContent = `the newest page could not be shown: ${problem.message}`;
  } finally {
    setTimeout(follow, EVERY_MS);
  }
}
if (!live.hidden) follow();
