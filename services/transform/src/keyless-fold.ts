import type { Cell } from '@tributary/core';
import { keyText } from './table-state.ts';

interface Coming {
  readonly cells: readonly Cell[];
  readonly at: number | null;
}

/**
 * Folds the changes of a table without a key: a row that goes takes away one that is equal and came before it, here or where
 * the rows are kept. Which of several equal ones makes no difference.
 */
export class KeylessFold {
  #gone: (readonly Cell[])[] = [];
  /** By all values. */
  #come = new Map<string, Coming[]>();

  put(cells: readonly Cell[], at: number | null): void {
    const key = textOf(cells);
    const equal = this.#come.get(key);
    if (equal) equal.push({ cells, at });
    else this.#come.set(key, [{ cells, at }]);
  }

  delete(cells: readonly Cell[]): void {
    if (!this.#come.get(textOf(cells))?.pop()) this.#gone.push(cells);
  }

  /** Everything left to do, and starts anew. */
  take(): { readonly gone: readonly (readonly Cell[])[]; readonly come: readonly Coming[] } {
    const left = { gone: this.#gone, come: [...this.#come.values()].flat() };
    this.#gone = [];
    this.#come = new Map();
    return left;
  }
}

function textOf(cells: readonly Cell[]): string {
  return keyText(cells, [...cells.keys()]);
}
