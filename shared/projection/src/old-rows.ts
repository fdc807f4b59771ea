import type { Cell, Section } from '@tributary/core';

/** Old rows of a section's updates, by row. */
export function oldRows(section: Section): Map<number, Cell[]> {
  const { old } = section;
  if (!old) return new Map();
  const columns = old.columns.map((column) => column.values());
  return new Map([...old.row].map((row, i) => [row, columns.map((column) => column[i])]));
}
