/** Cells of a table that are objects, as JSON. */
export function shown(value: unknown): unknown {
  return typeof value === 'object' && value !== null ? JSON.stringify(value) : value;
}

/** One line of CSV. NULL is nothing, an empty text is quoted. */
export function csvLine(values: readonly unknown[]): string {
  return values.map(csv).join(',');
}

function csv(value: unknown): string {
  const text = value === null || value === undefined ? '' : String(shown(value));
  return /[",\n\r]/.test(text) || (value === '' && text === '') ? `"${text.replaceAll('"', '""')}"` : text;
}
