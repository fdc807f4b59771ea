import { createHash } from 'node:crypto';

/** Dimension → its value as text, as filters compare it; null: it has none. No dimension: everything together. */
export type Group = Readonly<Record<string, string | null>>;

export const TOGETHER: Group = {};

/** A longer value is cut, and told apart by a hash: it stands in ids of letters and in addresses. */
const TEXT_MAX = 80;

/** @param dimensions as a row of values has them */
export function groupOf(dimensions: Readonly<Record<string, unknown>>): Group {
  return Object.fromEntries(Object.entries(dimensions).map(([name, value]) => [name, textOf(value)]));
}

function textOf(value: unknown): string | null {
  if (value === null || value === undefined) return null;
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  if (text.length <= TEXT_MAX) return text;
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 12);
  return `${text.slice(0, TEXT_MAX / 2).replace(/[\uD800-\uDBFF]$/, '')}…${hash}`;
}

/** Name of an alert about one group, such as `drop{country=DE,channel}`, where `channel` has no value. Printable ASCII. */
export function groupedName(alert: string, group: Group): string {
  const parts = Object.entries(group).map(([name, value]) => (value === null ? name : `${name}=${encodeURIComponent(value)}`));
  return parts.length === 0 ? alert : `${alert}{${parts.join(',')}}`;
}

/** What {@link groupedName} made the name of. */
export function groupNamed(name: string): { readonly alert: string; readonly group: Group } {
  const [, alert = name, parts] = /^([^{]+)\{(.*)\}$/.exec(name) ?? [];
  if (parts === undefined) return { alert, group: TOGETHER };
  const entries = parts.split(',').map((part) => {
    const [dimension = '', value] = part.split('=');
    return [dimension, value === undefined ? null : decodeURIComponent(value)] as const;
  });
  return { alert, group: Object.fromEntries(entries) };
}
