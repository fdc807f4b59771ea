import { describeError, Fault, type FaultFacts, type FaultKind } from '@tributary/core';

interface PgError extends Error {
  readonly code?: string;
  readonly severity?: string;
  readonly table?: string;
  readonly column?: string;
  readonly constraint?: string;
}

/** SQLSTATE classes and codes that a person need not mend: the connection, the server's state, a lost race. */
const PASSING = /^(08|57P0[1-5]|53[0-9]|40|55P03|55006|XX000|58)/;

/**
 * What a driver error means to us. Detail and hint of the server are left out: they may quote row values.
 * @param doing what was tried, for the operator: `reading the catalog of shop`
 */
export function databaseFault(error: unknown, doing: string, facts: FaultFacts = {}): Fault {
  if (error instanceof Fault) return error;
  const { code = '', table, column, constraint } = error as PgError;
  const more = { ...facts, ...(code ? { sqlState: code } : {}), ...strings({ table, column, constraint }) };
  return new Fault(kindOf(code), `${doing}: ${describeError(error)}`, more, { cause: undefined });
}

function kindOf(code: string): FaultKind {
  if (/^\d|^[A-Z0-9]{5}$/.test(code) && code.length === 5) {
    if (/^(28|3D000)/.test(code)) return 'database_unreachable';
    if (code === '55006') return 'slot_in_use';
    if (code.startsWith('53100')) return 'disk_full';
    return PASSING.test(code) ? 'database_unreachable' : 'database_rejected';
  }
  return 'database_unreachable';
}

function strings(values: Record<string, string | undefined>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

/** The SQLSTATE of a database error, also through a Fault made of it; '' when it is none. */
export function sqlState(error: unknown): string {
  if (error instanceof Fault) return String(error.facts['sqlState'] ?? '');
  return (error as PgError | null)?.code ?? '';
}
