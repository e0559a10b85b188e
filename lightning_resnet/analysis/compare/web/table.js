// Tables: a click on a heading sorts; numbers by size, then words, then what is empty.
function isBefore(a, b) {
  if (a === b) return 0;
  if (a === '' || b === '') return a === '' ? 1 : -1;
  if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;
  return a < b ? -1 : 1;
}

function cellValue(text) {
  const plain = text.replaceAll(',', '').trim();
  const number = /^[-+]?[\d.]/.test(plain) ? parseFloat(plain) : NaN;
  return isNaN(number) ? plain : number;
}

function sortable(table) {
  for (const th of table.querySelectorAll('th')) {
    const sort = () => {
      const up = th.getAttribute('aria-sort') !== 'ascending';
      const key = row => cellValue(row.cells[th.cellIndex].textContent);
      const rows = [...table.rows].slice(1);
      rows.sort((a, b) => (up ? 1 : -1) * isBefore(key(a), key(b)));
      for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
      th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      rows.forEach(row => row.parentNode.append(row));
    };
    pressable(th, sort);
  }
}

// An element that a click and the Enter key press.
function pressable(element, press) {
  element.tabIndex = 0;
  element.onclick = press;
  element.onkeydown = event => {
    if (event.key === 'Enter') press();
  };
}
