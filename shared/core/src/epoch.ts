/**
 * A slot epoch names one unbroken run of a slot: `<system identifier of the database cluster>.<random>`. A new one begins
 * with the slot, and whenever the slot no longer reaches back to the changelog. Progress is bound to it: an LSN of
 * another epoch may mean another history.
 */
export function epochOf(systemId: string, random: string): string {
  return `${systemId}.${random}`;
}

/** The database cluster an epoch belongs to; null for an epoch that does not say. */
export function systemOf(epoch: string): string | null {
  const dot = epoch.indexOf('.');
  return dot === -1 ? null : epoch.slice(0, dot);
}
