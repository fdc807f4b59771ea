import { type BatchDraft, type Change, SectionDraft } from '@tributary/changelog';
import { canonicalType, type Cell, type ColumnSchema, Fault, Op, type OpCode, type TableSchema, typmodOf } from '@tributary/core';

/** A line as `tributary tail --types` prints it. By hand most of it may be left out; without `op` it tells a table's shape alone. */
type Line = Pick<Change, 'source' | 'table'> & Partial<Change> & { readonly types?: Readonly<Record<string, string>> };

/** One transaction of one source. */
export interface FixtureStep {
  readonly source: string;
  /** µs since 1970. */
  readonly committedAt: number;
  /** A message whose place is the `n`-th of its changelog, `n` counted from 1. */
  draft(n: number): BatchDraft;
}

/** Changes that were written down: as transactions, in their order, and the shapes of the tables they are of. */
export interface Fixture {
  readonly steps: readonly FixtureStep[];
  /** By source. */
  readonly shapes: ReadonlyMap<string, readonly TableSchema[]>;
}

/** Names in `pg_type` of types that KPIs keep as something else than text. */
const TYPE_NAMES: Readonly<Record<string, string>> = {
  boolean: 'bool',
  smallint: 'int2',
  integer: 'int4',
  bigint: 'int8',
  real: 'float4',
  'double precision': 'float8',
  'timestamp with time zone': 'timestamptz',
  'timestamp without time zone': 'timestamp',
  'time without time zone': 'time',
};
const OPS: Readonly<Record<string, OpCode>> = { c: Op.created, u: Op.updated, d: Op.deleted, t: Op.truncated };

/**
 * Reads lines of JSON. Types of columns are told by `types` of any line of their table, else they are text; the key is what `key` of its first
 * line names. Lines that follow each other with the same `lsn` and `xid` are one transaction.
 * @throws Fault `config_invalid` that names file and line
 */
export function readFixture(name: string, text: string): Fixture {
  const lines = text.split('\n').flatMap((one, i) => (one.trim() === '' ? [] : [lineOf(one, `${name}:${i + 1}`)]));
  const shapes = new Map<string, TableSchema>();
  for (const line of lines) {
    const table = tableOf(line);
    shapes.set(table, shapeOf(table, lines));
  }
  const steps: { lines: Line[]; committedAt: number }[] = [];
  for (const line of lines.filter(({ op }) => op !== undefined)) {
    const last = steps.at(-1);
    const before = last?.lines.at(-1);
    const same = line.lsn !== undefined && before?.source === line.source && before.lsn === line.lsn && before.xid === line.xid;
    if (last && same) last.lines.push(line);
    else steps.push({ lines: [line], committedAt: microsOf(line.committedAt) ?? last?.committedAt ?? 0 });
  }
  const sources = [...new Set(lines.map(({ source }) => source))];
  return {
    steps: steps.map(({ lines: changes, committedAt }) => {
      const source = (changes[0] as Line).source;
      return { source, committedAt, draft: (n) => draftOf({ source, changes, committedAt, n, shapes }) };
    }),
    shapes: new Map(
      sources.map((source) => [source, [...shapes].flatMap(([table, shape]) => (table.startsWith(`${source}.`) ? [shape] : []))]),
    ),
  };
}

/** A message without rows: everything up to `watermark` (µs since 1970) is told. */
export function silentDraft(source: string, watermark: number, n: number): BatchDraft {
  const lsn = BigInt(n) * 16n;
  const rest = { continues: false, more: false, mark: null, state: null, transactions: [] } as const;
  const header = { source, epoch: 'fixture', kind: 'stream', position: { lsn, ordinal: 0 }, restart: lsn, watermark } as const;
  return { header: { ...header, ...rest }, sections: [] };
}

function lineOf(text: string, place: string): Line {
  let line: unknown;
  try {
    line = JSON.parse(text);
  } catch (error) {
    throw new Fault('config_invalid', `${place}: expected a change as JSON`, {}, { cause: error });
  }
  const { source, table, op } = (line ?? {}) as Partial<Line>;
  if (typeof source !== 'string' || typeof table !== 'string')
    throw new Fault('config_invalid', `${place}: expected "source" and "table", as tributary tail prints them`);
  if (op !== undefined && !(op in OPS) && op !== 'r')
    throw new Fault('config_invalid', `${place}: "op" is c, u, d, r or t, not ${JSON.stringify(op)}`);
  return line as Line;
}

function tableOf({ source, schema = 'public', table }: Line): string {
  return `${source}.${schema}.${table}`;
}

/** Of all lines of a table: every column that one of them names. */
function shapeOf(table: string, all: readonly Line[]): TableSchema {
  const lines = all.filter((line) => tableOf(line) === table);
  const { schema = 'public', table: name } = lines[0] as Line;
  const types: Record<string, string> = Object.assign({}, ...lines.map((line) => line.types ?? {}));
  const key = Object.keys(lines.find((line) => Object.keys(line.key ?? {}).length > 0)?.key ?? {});
  const named = lines.flatMap((line) => [line.types, line.key, line.after, line.before].flatMap((row) => Object.keys(row ?? {})));
  const columns = [...new Set(named)].map((column) => columnOf(column, types[column] ?? 'text', key.indexOf(column) + 1));
  return { schema, table: name, identity: key.length > 0 ? 'default' : 'full', columns };
}

function columnOf(name: string, written: string, key: number): ColumnSchema {
  const sqlType = canonicalType(written) ?? written;
  const [plain = ''] = sqlType.split(/\(\d[^)]*\)/);
  const typeName = TYPE_NAMES[sqlType.replace(/\(\d[^)]*\)/, '')] ?? plain;
  return { name, type: { oid: 0, schema: 'pg_catalog', name: typeName, kind: 'base' }, typmod: typmodOf(sqlType), sqlType, key };
}

function draftOf({ source, changes, committedAt, n, shapes }: Drafting): BatchDraft {
  const lsn = BigInt(n) * 16n;
  const sections = new Map<string, SectionDraft>();
  changes.forEach((line, i) => {
    const table = tableOf(line);
    const shape = shapes.get(table) as TableSchema;
    const section = sections.get(table) ?? new SectionDraft(shape);
    sections.set(table, section);
    const { op = 'c', key, before, after, unchanged = [] } = line;
    const row = op === 'd' ? { ...key, ...before } : (after ?? {});
    // What a snapshot read, where the stream had brought some of it already, changes what is left.
    const code = OPS[op] ?? (unchanged.length > 0 ? Op.updated : Op.created);
    const missing = (name: string): Cell => (op === 'd' || unchanged.includes(name) ? undefined : null);
    const cellOf = (name: string) => (Object.hasOwn(row, name) ? textOf(row[name]) : missing(name));
    shape.columns.forEach(({ name }, c) => section.cells[c]?.push(op === 't' ? null : cellOf(name)));
    if (op === 'u' && before) {
      const old = section.oldCells();
      shape.columns.forEach(({ name }, c) => old[c]?.push(Object.hasOwn(before, name) ? textOf(before[name]) : undefined));
    }
    section.row(code, 0, i + 1);
  });
  const { header } = silentDraft(source, committedAt, n);
  const transactions = [{ lsn, endLsn: lsn + 8n, xid: n, committedAt }];
  return { header: { ...header, position: { lsn, ordinal: changes.length }, transactions }, sections: [...sections.values()] };
}

interface Drafting {
  readonly source: string;
  readonly changes: readonly Line[];
  readonly committedAt: number;
  readonly n: number;
  readonly shapes: ReadonlyMap<string, TableSchema>;
}

/** A value is PostgreSQL's text; by hand it may be a number or a boolean. */
function textOf(value: unknown): Cell {
  return value === null || value === undefined ? null : String(value);
}

/** ISO 8601 with microseconds. */
function microsOf(text: string | null | undefined): number | null {
  if (!text) return null;
  const millis = Date.parse(text);
  const [, micros = ''] = /\.\d{3}(\d{1,3})/.exec(text) ?? [];
  return Number.isFinite(millis) ? millis * 1_000 + Number(micros.padEnd(3, '0')) : null;
}
