/** Rows by the case they are of (`c`). */
export function byCase<Row extends { readonly c: string }>(rows: readonly Row[]): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const group = groups.get(row.c);
    if (group) group.push(row);
    else groups.set(row.c, [row]);
  }
  return groups;
}
