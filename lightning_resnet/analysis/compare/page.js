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
const { runs, colours, x } = JSON.parse(document.getElementById('data').textContent);
const svg = document.getElementById('curves'), keys = document.getElementById('keys'), off = new Set();
const make = (name, attributes, text) => {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const a in attributes) e.setAttribute(a, attributes[a]);
  if (text !== undefined) e.textContent = text;
  return svg.appendChild(e);
};
let shown = [];
const draw = () => {
  svg.replaceChildren();
  const w = svg.clientWidth, h = svg.clientHeight, here = runs.filter(r => !off.has(r.row));
  const all = here.flatMap(r => r.x), ys = here.flatMap(r => [...r.val, ...r.train]).filter(v => v !== null);
  const most = a => a.reduce((x, y) => Math.max(x, y), 1), right = most(all), top = most(ys);
  const px = v => 50 + v / right * (w - 70), py = v => h - 30 - v / top * (h - 50);
  for (let i = 0; i <= 4; i++) {
    make('line', { x1: 50, x2: w - 20, y1: py(top * i / 4), y2: py(top * i / 4), stroke: '#e5e5e5' });
    make('text', { x: 44, y: py(top * i / 4) + 4, 'text-anchor': 'end' }, +(top * i / 4).toPrecision(3));
    make('text', { x: px(right * i / 4), y: h - 12, 'text-anchor': 'middle' }, +(right * i / 4).toPrecision(4));
  }
  make('text', { x: 50, y: 14 }, 'error (%) against ' + x + '; solid: validation, dashed: training');
  shown = [];
  for (const r of here) for (const kind of ['val', 'train']) {
    const points = r.x.map((v, i) => [v, r[kind][i]]).filter(p => p[1] !== null);
    const line = points.map(p => px(p[0]) + ',' + py(p[1])).join(' ');
    make('polyline', { points: line, stroke: colours[r.row], class: kind });
    const text = p => `${r.row}, run ${r.run}: ${kind} error ${p[1].toFixed(2)} % at ${x} ${+p[0].toPrecision(6)}`;
    for (const p of points) shown.push({ x: px(p[0]), y: py(p[1]), text: text(p) });
  }
};
svg.onmousemove = e => {
  const box = svg.getBoundingClientRect(), far = p => Math.hypot(p.x - e.clientX + box.left, p.y - e.clientY + box.top);
  const near = shown.reduce((a, b) => far(b) < far(a) ? b : a, shown[0]);
  document.getElementById('value').textContent = near && far(near) < 40 ? near.text : '';
};
for (const row in colours) {
  const [label, box, line] = ['label', 'input', 'i'].map(tag => document.createElement(tag));
  box.type = 'checkbox'; box.checked = true; line.style.background = colours[row];
  box.onchange = () => { box.checked ? off.delete(row) : off.add(row); draw() };
  label.append(box, line, row); keys.append(label);
}
draw(); window.onresize = draw;
