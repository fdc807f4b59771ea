export function duckIdent(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

export function duckLiteral(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}
