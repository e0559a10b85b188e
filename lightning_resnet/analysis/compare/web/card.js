// What charts and maps share: elements, colours, numbers and ticks, and the card around a drawing.
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
  const share = Math.max(0, Math.min(0.6, (110 - light) / 150));
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

// Cells of a CSV that no spreadsheet takes for a formula.
const csvCell = value => {
  const text = String(value ?? '');
  const harmless = /^[=+\-@]/.test(text) && isNaN(text) ? `'${text}` : text;
  return /[",\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
};

// Title, controls, the box at the cursor, and files to save. Subclasses draw a `spec` by `draw`.
class Card {
  // `controls`: elements next to the title, such as the choice of the metric.
  constructor(host, controls, logWords) {
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
      'aria-label': logWords
    });
    this.log.onchange = () => {
      this.chosenLog = this.log.checked;
      this.zoom = null;
      this.draw(this.spec);
    };
    this.logLabel = html('label', {
      title: logWords
    }, this.log, 'log');
    const button = (text, label, onclick) => html('button', {
      type: 'button',
      title: label,
      'aria-label': label,
      onclick
    }, text);
    this.tools = html('div', {
        class: 'tools'
      }, ...controls, this.logLabel,
      button('+', 'zoom in', () => this.scale(0.5)),
      button('\u2212', 'zoom out', () => this.scale(2)),
      button('reset', 'show all (double click)', () => this.reset()),
      button('PNG', 'save as an image', () => this.save()),
      button('CSV', 'save the numbers', () => this.saveNumbers()));
    this.card = html('section', {
      class: 'chart'
    }, this.title, this.tools, this.plot, this.box);
    host.append(this.card);
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.plot);
  }

  remove() {
    this.observer.disconnect();
    this.card.remove();
  }

  // Show the box with what the cursor is at: `at` pixels right of the left end of `over`.
  showBox(rows, over, at) {
    this.box.replaceChildren(...rows);
    this.box.hidden = false;
    const inside = over.getBoundingClientRect();
    const card = this.card.getBoundingClientRect();
    const width = this.box.offsetWidth;
    const left = inside.left - card.left + at;
    const side = left + 16 + width < card.width ? left + 16 : Math.max(4, left - width - 16);
    this.box.style.left = `${Math.min(side, Math.max(4, card.width - width - 4))}px`;
    this.box.style.top = `${inside.bottom - card.top + 2}px`;
    if (card.width > 500) this.box.style.top = `${inside.top - card.top + 8}px`;
  }

  // A row of the box: a colour, a name, a value.
  row(line, label, value, isNear) {
    return html('p', {
      class: isNear ? 'near' : ''
    }, html('i', {
      colour: line.colour,
      class: line.dash ? 'dashed' : ''
    }), html('span', {}, label), html('b', {}, value));
  }

  // A drawing with its title, legend and note as an image for a slide; `ratio` pixels per point.
  saveImage(source, ratio, lines) {
    const canvas = document.createElement('canvas');
    const context = canvas.getContext('2d');
    const font = 13 * ratio;
    context.font = `${font}px system-ui, sans-serif`;
    const places = [];
    let [x, y] = [12 * ratio, 0];
    for (const line of lines) {
      const text = (line.legend ?? line.label).slice(0, 80);
      const width = context.measureText(text).width + 44 * ratio;
      if (x + width > source.width && x > 12 * ratio)[x, y] = [12 * ratio, y + 20 * ratio];
      places.push([line, text, x, y]);
      x += width;
    }
    const head = 40 * ratio;
    const {
      note
    } = this.spec;
    const foot = (lines.length ? 36 : 12) + (note ? 20 : 0);
    canvas.width = source.width;
    canvas.height = head + source.height + y + foot * ratio;
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
    canvas.toBlob(blob => this.download(blob, 'png'));
  }

  saveNumbers() {
    const text = this.numbers().map(row => row.map(csvCell).join(',') + '\n').join('');
    this.download(new Blob([text], {
      type: 'text/csv'
    }), 'csv');
  }

  download(blob, ending) {
    const link = html('a', {
      href: URL.createObjectURL(blob),
      download: `${this.spec.title.replace(/[^\w.-]+/g, '_').slice(0, 80)}.${ending}`
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}
