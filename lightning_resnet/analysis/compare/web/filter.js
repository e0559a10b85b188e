// An expression over the columns of the table of runs, as in `compare --where`:
// depth == 56 and (lr < 0.1 or norm in ('none', 'batch')). A text without an operator is looked for
// in all columns. Nothing is evaluated as code.
const TOKENS = [
  String.raw`(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)`,
  "'([^']*)'",
  '"([^"]*)"',
  '`([^`]*)`',
  String.raw`([A-Za-z_][\w./@]*)`,
  String.raw`(==|!=|<=|>=|[<>~&|(),[\]-])`,
];
const SAME = {
  '&': 'and',
  '|': 'or'
};
const TOKEN = new RegExp(String.raw`\s*(?:${TOKENS.join('|')})`, 'y');

function tokensOf(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (text.slice(TOKEN.lastIndex).trim()) {
    const start = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) throw new Error(`cannot read ${text.slice(start).trim()}`);
    const [, number, single, double, quoted, word, sign] = match;
    if (number !== undefined) found.push({
      kind: 'value',
      value: Number(number)
    });
    else if (single !== undefined) found.push({
      kind: 'value',
      value: single
    });
    else if (double !== undefined) found.push({
      kind: 'value',
      value: double
    });
    else if (quoted !== undefined) found.push({
      kind: 'name',
      value: quoted
    });
    else if (sign !== undefined) found.push({
      kind: 'sign',
      value: SAME[sign] ?? sign
    });
    else if (['and', 'or', 'not', 'in'].includes(word)) found.push({
      kind: 'sign',
      value: word
    });
    else found.push({
      kind: 'name',
      value: word
    });
  }
  return found;
}

function isSame(a, b) {
  if (typeof a === 'number' && typeof b !== 'number') return String(a) === String(b ?? '');
  return typeof b === 'number' ? a !== null && a !== '' && Number(a) === b : (a ?? '') === (b ?? '');
}

const OPERATORS = {
  '==': isSame,
  '!=': (a, b) => !isSame(a, b),
  '<': (a, b) => a !== null && a < b,
  '<=': (a, b) => a !== null && a <= b,
  '>': (a, b) => a !== null && a > b,
  '>=': (a, b) => a !== null && a >= b,
  '~': (a, b) => String(a ?? '').toLowerCase().includes(String(b).toLowerCase()),
};

// Return a function that tells whether a run fits.
// `names`: the columns; `value(run, name)`: a cell.
function filterOf(text, names, value) {
  if (!text.trim()) return () => true;
  const plain = text.trim().toLowerCase();
  if (!/[=<>~]|\bin\b/.test(text)) {
    return run => names.some(name => String(value(run, name) ?? '').toLowerCase().includes(plain));
  }
  const tokens = tokensOf(text);
  let at = 0;
  const next = sign => tokens[at]?.kind === 'sign' && tokens[at].value === sign && ++at > 0;
  const expect = sign => {
    if (!next(sign)) throw new Error(`${sign} is missing`);
  };

  function operand() {
    const negative = next('-');
    const token = tokens[at++];
    if (!token || token.kind === 'sign') throw new Error('a name or a value is missing');
    if (token.kind === 'value') {
      const constant = negative ? -token.value : token.value;
      return () => constant;
    }
    const known = {
      True: 'True',
      False: 'False',
      None: null,
      nan: null
    };
    if (Object.hasOwn(known, token.value)) return () => known[token.value];
    if (!names.includes(token.value)) throw new Error(`there is no column ${token.value}`);
    return run => value(run, token.value);
  }

  function values() {
    const close = next('(') ? ')' : next('[') ? ']' : null;
    if (!close) throw new Error("write a list: in ('A', 'B')");
    const found = [];
    while (!next(close)) {
      found.push(operand());
      if (tokens[at]?.value !== close) expect(',');
    }
    return found;
  }

  function comparison() {
    if (next('not')) {
      const inner = comparison();
      return run => !inner(run);
    }
    if (next('(')) {
      const inner = either();
      expect(')');
      return inner;
    }
    const left = operand();
    const negated = next('not');
    if (next('in')) {
      const list = values();
      return run => list.some(right => isSame(left(run), right(run))) !== negated;
    }
    return chain(left, negated);
  }

  // left < right, or a chain of these: 20 <= depth <= 56.
  function chain(left, negated) {
    const sign = tokens[at++]?.value;
    if (negated || !Object.hasOwn(OPERATORS, sign)) {
      throw new Error('a comparison is missing: depth == 56');
    }
    const right = operand();
    const goesOn = tokens[at]?.kind === 'sign' && Object.hasOwn(OPERATORS, tokens[at].value);
    const rest = goesOn ? chain(right, false) : () => true;
    return run => OPERATORS[sign](left(run), right(run)) && rest(run);
  }

  function both() {
    const parts = [comparison()];
    while (next('and')) parts.push(comparison());
    return run => parts.every(part => part(run));
  }

  function either() {
    const parts = [both()];
    while (next('or')) parts.push(both());
    return run => parts.some(part => part(run));
  }

  const whether = either();
  if (at < tokens.length) throw new Error(`unexpected ${tokens[at].value}`);
  return whether;
}
