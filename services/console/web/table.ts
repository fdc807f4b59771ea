export type Tone = 'good' | 'warn' | 'bad' | 'quiet';

/** What stands in one cell: a text, perhaps as a badge, a bar below it, and a smaller note. */
export interface Cell {
  readonly text: string;
  readonly tone?: Tone | undefined;
  readonly form?: 'badge' | 'code' | undefined;
  readonly note?: string | undefined;
  readonly noteTone?: Tone | undefined;
  /** 0 … 1. */
  readonly bar?: number | undefined;
}

export interface Column<Row> {
  readonly label: string;
  readonly number?: boolean;
  cell(row: Row): Cell;
}

interface Shown {
  readonly element: HTMLTableRowElement;
  readonly cells: string[];
}

/**
 * Keeps a table equal to a list of rows, touching only cells that changed, so that a selection, a screen reader's
 * place and the scroll position survive the next second. Roles are spelled out because on a phone the
 * table is laid out as cards, which makes browsers forget that it is a table.
 */
export class LiveTable<Row> {
  readonly #columns: readonly Column<Row>[];
  readonly #key: (row: Row) => string;
  readonly #body: HTMLTableSectionElement;
  readonly #empty: HTMLTableRowElement;
  readonly #none: string;
  readonly #shown = new Map<string, Shown>();

  constructor(table: HTMLTableElement, columns: readonly Column<Row>[], options: { key(row: Row): string; empty: string }) {
    this.#columns = columns;
    this.#key = options.key;
    const head = table.createTHead();
    head.role = 'rowgroup';
    const row = head.insertRow();
    row.role = 'row';
    for (const column of columns) {
      const th = document.createElement('th');
      th.scope = 'col';
      th.role = 'columnheader';
      th.textContent = column.label;
      if (column.number) th.className = 'number';
      row.append(th);
    }
    this.#body = table.createTBody();
    this.#body.role = 'rowgroup';
    this.#empty = this.#body.insertRow();
    this.#empty.className = 'empty';
    const cell = this.#empty.insertCell();
    cell.colSpan = columns.length;
    cell.textContent = 'Reading …';
    this.#none = options.empty;
  }

  show(rows: readonly Row[]): void {
    this.#empty.hidden = rows.length > 0;
    if (rows.length === 0) (this.#empty.cells[0] as HTMLElement).textContent = this.#none;
    const keys = new Set(rows.map(this.#key));
    for (const [key, shown] of this.#shown) {
      if (keys.has(key)) continue;
      shown.element.remove();
      this.#shown.delete(key);
    }
    let before: Element | null = this.#empty;
    for (const row of rows) {
      const shown = this.#shown.get(this.#key(row)) ?? this.#add(this.#key(row));
      if (before?.nextElementSibling !== shown.element) before?.after(shown.element);
      before = shown.element;
      this.#update(shown, row);
    }
  }

  #add(key: string): Shown {
    const element = document.createElement('tr');
    element.role = 'row';
    element.dataset['key'] = key;
    this.#columns.forEach((column, index) => {
      const cell = document.createElement(index === 0 ? 'th' : 'td');
      cell.role = index === 0 ? 'rowheader' : 'cell';
      if (index === 0) cell.scope = 'row';
      else cell.dataset['label'] = column.label;
      if (column.number) cell.className = 'number';
      element.append(cell);
    });
    const shown = { element, cells: [] };
    this.#shown.set(key, shown);
    return shown;
  }

  #update(shown: Shown, row: Row): void {
    this.#columns.forEach((column, index) => {
      const cell = column.cell(row);
      const seen = JSON.stringify(cell);
      if (shown.cells[index] === seen) return;
      shown.cells[index] = seen;
      shown.element.cells[index]?.replaceChildren(...parts(cell));
    });
  }
}

function parts(cell: Cell): Node[] {
  const nodes: Node[] = [piece('span', cell.text, cell.tone, cell.form)];
  if (cell.bar !== undefined) {
    const bar = document.createElement('progress');
    bar.value = cell.bar;
    bar.ariaLabel = cell.text;
    nodes.push(bar);
  }
  if (cell.note !== undefined) nodes.push(piece('small', cell.note, cell.noteTone));
  return nodes;
}

function piece(tag: 'span' | 'small', text: string, tone?: Tone, className?: string): HTMLElement {
  const element = document.createElement(tag);
  element.textContent = text;
  if (tone) element.dataset['tone'] = tone;
  if (className) element.className = className;
  return element;
}
