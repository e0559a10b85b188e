for (const th of document.querySelectorAll('th')) th.onclick = () => {
  const body = th.closest('table'), rows = [...body.rows].slice(1), i = th.cellIndex;
  const up = th.getAttribute('aria-sort') !== 'ascending';
  const key = r => { const t = r.cells[i].textContent.replaceAll(',', ''), n = parseFloat(t); return isNaN(n) ? t : n };
  const order = (a, b) => a === b ? 0 : typeof a !== typeof b ? (typeof a === 'number' ? -1 : 1) : a < b ? -1 : 1;
  rows.sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
  for (const other of body.querySelectorAll('th')) other.removeAttribute('aria-sort');
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  rows.forEach(r => r.parentNode.append(r));
};
const text = document.getElementById('data').textContent;
const { runs, colours, x, ticks } = JSON.parse(text) ?? { runs: [], colours: {} };
const svg = document.getElementById('curves'), keys = document.getElementById('keys'), off = new Set();
const thin = row => row.startsWith('reference:') && Object.keys(colours).some(r => !r.startsWith('reference:'));
const make = (name, attributes, text) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const a in attributes) e.setAttribute(a, attributes[a]);
  if (text !== undefined) e.textContent = text;
  return svg.appendChild(e);
};
// numbers of 1, 2 or 5 times a power of ten, about `n` of them up to `top`
const nice = (top, n) => {
  const rough = top / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(k => k * power >= rough);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => +(i * step).toPrecision(12));
};
const short = v => v >= 1000 ? v / 1000 + 'k' : v + '';
const high = v => !ticks ? v : v < 1 ? v / 2 : 0.5 + Math.log10(v); // as the figure's axis
let shown = [];
const draw = () => {
  svg.replaceChildren();
  const w = svg.clientWidth, h = svg.clientHeight, here = runs.filter(r => !off.has(r.row));
  const all = here.flatMap(r => r.x), ys = here.flatMap(r => [...r.val, ...r.train]).filter(v => v !== null);
  const most = (a, least) => a.reduce((x, y) => Math.max(x, y), least), right = most(all, 0) || 1, top = most(ys, 1);
  const px = v => 40 + v / right * (w - 60), py = v => h - 40 - high(v) / high(top) * (h - 55);
  for (const v of (ticks ?? nice(top, 5)).filter(v => v <= top)) {
    make('line', { x1: 40, x2: w - 20, y1: py(v), y2: py(v), stroke: '#e5e5e5' });
    make('text', { x: 34, y: py(v) + 4, 'text-anchor': 'end' }, v);
  }
  for (const v of nice(right, w / 110)) make('text', { x: px(v), y: h - 24, 'text-anchor': 'middle' }, short(v));
  make('text', { x: (w + 20) / 2, y: h - 6, 'text-anchor': 'middle' }, x);
  shown = [];
  for (const r of here) for (const kind of ['val', 'train']) {
    const points = r.x.map((v, i) => [v, r[kind][i]]).filter(p => p[1] !== null);
    const line = points.map(p => px(p[0]) + ',' + py(p[1])).join(' ');
    make('polyline', { points: line, stroke: colours[r.row], class: kind + (thin(r.row) ? ' thin' : '') });
    const text = p => `${r.row}, run ${r.run}: ${kind} error ${p[1].toFixed(2)} % at ${+p[0].toPrecision(6)} ${x.split(' (')[0]}`;
    for (const p of points) shown.push({ x: px(p[0]), y: py(p[1]), text: text(p) });
  }
};
if (svg) svg.onmousemove = e => {
  const box = svg.getBoundingClientRect(), far = p => Math.hypot(p.x - e.clientX + box.left, p.y - e.clientY + box.top);
  const near = shown.reduce((a, b) => far(b) < far(a) ? b : a, shown[0]);
  document.getElementById('value').textContent = near && far(near) < 40 ? near.text : '';
};
for (const row in colours) {
  const [label, box, line] = ['label', 'input', 'i'].map(tag => document.createElement(tag));
  box.type = 'checkbox'; box.checked = true; line.style.background = colours[row]; line.className = thin(row) ? 'thin' : '';
  box.onchange = () => { box.checked ? off.delete(row) : off.add(row); draw() };
  label.append(box, line, row); keys.append(label);
}
if (svg) {
  const axis = 'error (%)' + (ticks ? ', logarithmic above 1' : '');
  document.getElementById('title').textContent = axis + '; solid: validation, dashed: training' + (runs.some(r => thin(r.row)) ? ', thin: reference' : '');
  draw(); window.onresize = draw;
}
