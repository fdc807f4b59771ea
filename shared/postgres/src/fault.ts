import { describeError, Fault, type FaultFacts, type FaultKind } from '@tributary/core';

interface PgError extends Error {
  readonly code?: string;
  readonly severity?: string;
  readonly table?: string;
  readonly column?: string;
  readonly constraint?: string;
  /** Context: for COPY it names table, line and column, and then quotes the value. */
  readonly where?: string;
  /** Function of the server that reported it. */
  readonly routine?: string;
}

/** SQLSTATE classes and codes that a person need not mend: the connection, the server's state, a lost race. */
const PASSING = /^(08|57P0[1-5]|53[0-9]|40|55P03|55006|XX000|58)/;

/** Classes whose text speaks of names, settings and states. Every other text may quote a row value, and is not shown. */
const SPEAKS_OF_NAMES = /^(08|0A|25|28|2B|3D|3F|40|42|53|54|55|57|58|XX)/;

/** What to say in place of the server's text. */
const CONDITIONS: Readonly<Record<string, string>> = {
  '21000': 'a subquery gave more than one row',
  '22001': 'a text is longer than its column allows',
  '22003': 'a number is out of range',
  '22007': 'a text is no date or time',
  '22008': 'a date or time is out of range',
  '22021': 'a text holds bytes that its encoding does not have',
  '22P02': 'a text is no value of its type',
  '22P03': 'a binary value is not of its type',
  '22P04': 'COPY met a line it cannot read',
  '22P05': "a character has no place in the database's encoding",
  '23502': 'NULL where it is not allowed',
  '23503': 'a foreign key finds no row',
  '23505': 'a key is there already',
  '23514': 'a check constraint is not met',
  '23P01': 'an exclusion constraint is not met',
  P0001: 'a trigger or function refused it',
};

/**
 * What a driver error means to us, without row values: detail and hint of the server are left out, and so is its text
 * where it may quote one (`invalid input syntax for type integer: "…"`, whatever a trigger raises).
 * @param doing what was tried, for the operator: `reading the catalog of shop`
 */
export function databaseFault(error: unknown, doing: string, facts: FaultFacts = {}): Fault {
  if (error instanceof Fault) return error;
  const { code = '', table, column, constraint } = error as PgError;
  const more = { ...facts, ...(code ? { sqlState: code } : {}), ...strings({ table, column, constraint }) };
  return new Fault(kindOf(code), `${doing}: ${textOf(error as PgError)}`, more, { cause: undefined });
}

function textOf(error: PgError): string {
  const { code = '', routine } = error;
  // A driver's or socket's own error has no SQLSTATE; what PL/pgSQL raises may carry any.
  const own = !isSqlState(code) || (SPEAKS_OF_NAMES.test(code) && routine !== 'exec_stmt_raise');
  if (own) return describeError(error);
  const condition = CONDITIONS[code] ?? CONDITIONS[routine === 'exec_stmt_raise' ? 'P0001' : ''] ?? 'the database refused it';
  return `${[condition, ...places(error)].join(', ')} (SQLSTATE ${code}; the server's log has its words)`;
}

/** The names that the error carries. */
function places({ table, column, constraint, where = '' }: PgError): string[] {
  // Anchored, so that nothing of the value, which comes after the colon, can be taken for a name.
  const copied = /^COPY ([^,"]+), line \d+, column ([^:"]+):/.exec(where);
  const names = { table: table ?? copied?.[1], column: column ?? copied?.[2], constraint };
  return Object.entries(strings(names)).map(([what, name]) => `${what} ${name}`);
}

function isSqlState(code: string): boolean {
  return code.length === 5 && /^[A-Z0-9]{5}$/.test(code);
}

function kindOf(code: string): FaultKind {
  if (isSqlState(code)) {
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
