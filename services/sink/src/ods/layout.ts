import type { Changelogs } from '@tributary/changelog';
import {
  assert,
  compareSourcePosition,
  Fault,
  formatSourcePosition,
  ORIGIN,
  type Part,
  partName,
  type Position,
  type StoredBatch,
} from '@tributary/core';
import type { Session } from '@tributary/postgres';
import { leaveOut, type Projection } from '@tributary/projection';
import { positionOf } from './place.ts';
import { type Load, shareOut } from './shares.ts';

const LAYOUT_LOCK = 7_215_003;

/** Changelog applied together while a part is brought forward. */
const GROUP_BYTES = 2 * 2 ** 20;

export interface LayoutOptions {
  readonly sink: string;
  readonly source: string;
  /** How many parts there are to be. */
  readonly parts: number;
  /** Holds the lock while the layout is looked at, and nothing else meanwhile. */
  readonly session: Session;
  readonly changelogs: Pick<Changelogs, 'read' | 'deadLetters'>;
  readonly signal: AbortSignal;
  /** One part of the layout that is being left. */
  readonly openPart: (part: Part, layout: number) => Promise<Projection>;
}

interface Row {
  readonly part: number;
  readonly parts: number;
  readonly layout: number;
  readonly position: Position;
}

/**
 * Sees to it that the target's tables are shared out among as many parts as wanted, and says under which layout.
 *
 * Nothing is lost or applied twice when the number changes, because tables change hands only at one common position:
 *
 *   1. take over: the layout's number rises, so whoever still applies under the old one is fenced at its next commit;
 *   2. level: every old part that is behind is brought, by ordinary reading and applying, to where the furthest one stands;
 *   3. share out: one SQL transaction that finds all old parts there replaces their rows by those of the new parts.
 *
 * Whoever dies on the way leaves a layout that is whole: old, or new. One worker does this, the others wait for its lock.
 */
export async function settleLayout(options: LayoutOptions): Promise<number> {
  const { session, sink, source, parts, signal } = options;
  // The one way out of waiting for a lock.
  const leave = () => void session.close();
  signal.addEventListener('abort', leave);
  try {
    await session.run('SELECT pg_advisory_lock($1, hashtext($2))', [LAYOUT_LOCK, `${sink}/${source}`]);
    for (;;) {
      const rows = await read(options);
      const [first] = rows;
      if (!first) await begin(options);
      else if (first.parts === parts && !(await isTorn(options, first.layout))) return first.layout;
      else {
        await refuseQuarantine(options, rows);
        await share(options, await level(options));
      }
    }
  } finally {
    signal.removeEventListener('abort', leave);
    if (!signal.aborted && !session.broken) {
      await session.run('SELECT pg_advisory_unlock($1, hashtext($2))', [LAYOUT_LOCK, `${sink}/${source}`]);
    }
  }
}

async function read({ session, sink, source }: LayoutOptions, lock = ''): Promise<Row[]> {
  const rows = await session.rows<Parameters<typeof positionOf>[0] & { part: number; parts: number; layout: string }>(
    `SELECT part, parts, layout, seq, lsn::text AS lsn, ordinal, epoch FROM tributary.position WHERE sink = $1 AND source = $2 ORDER BY part ${lock}`,
    [sink, source],
  );
  const found = rows.map((row) => ({
    part: row.part,
    parts: row.parts,
    layout: Number(row.layout),
    position: positionOf(row),
  }));
  const whole = found.every((row, i) => row.part === i + 1 && row.parts === found.length && row.layout === found[0]?.layout);
  assert(whole, `tributary.position of ${sink}/${source} is not whole`);
  return found;
}

async function begin({ session, sink, source, parts }: LayoutOptions): Promise<void> {
  await session.run(
    `INSERT INTO tributary.position (sink, source, part, parts, layout, seq, lsn, ordinal)
     SELECT $1, $2, part, $3::int, 1, 0, '0/0', 0 FROM generate_series(1, $3::int) part`,
    [sink, source, parts],
  );
}

/** Did the target's owner tie tables of different parts by a foreign key? */
async function isTorn({ session, sink, source }: LayoutOptions, layout: number): Promise<boolean> {
  const { torn } = await session.row<{ torn: boolean }>(
    `WITH shares AS (SELECT to_regclass(t.target) AS oid, p.part FROM tributary.tables t JOIN tributary.parts p USING (sink, source, name)
                      WHERE t.sink = $1 AND t.source = $2 AND p.layout = $3)
     SELECT EXISTS (SELECT 1 FROM pg_constraint c JOIN shares a ON a.oid = c.conrelid JOIN shares b ON b.oid = c.confrelid
                     WHERE c.contype = 'f' AND a.part <> b.part) AS torn`,
    [sink, source, layout],
  );
  return torn;
}

/** A part's quarantine holds what its table lacks: whoever takes the table over would go on without it. */
async function refuseQuarantine({ changelogs, sink, source }: LayoutOptions, rows: readonly Row[]): Promise<void> {
  for (const { part, parts } of rows) {
    const name = partName(`${sink}/${source}`, { index: part, of: parts });
    const letters = await changelogs.deadLetters.list(name);
    if (letters.length === 0) continue;
    const tables = [...new Set(letters.map(({ table }) => table))].join(', ');
    throw new Fault(
      'config_invalid',
      `${tables} of ${name} is in quarantine, so tables cannot be shared out anew. Set "partitions" back to ${parts}, run tributary quarantine retry ${name} (or drop), and then change it`,
      { projection: name },
    );
  }
}

/** Steps 1 and 2. @returns the layout whose parts all stand at one position */
async function level(options: LayoutOptions): Promise<number> {
  const { session, sink, source } = options;
  await session.transaction('', async () => {
    for (const table of ['position', 'parts'])
      await session.run(`UPDATE tributary.${table} SET layout = layout + 1 WHERE sink = $1 AND source = $2`, [sink, source]);
  });
  for (;;) {
    const rows = await read(options);
    const furthest = rows.reduce((most, row) => (compareSourcePosition(row.position, most) > 0 ? row.position : most), ORIGIN);
    const behind = rows.filter((row) => compareSourcePosition(row.position, furthest) < 0);
    for (const row of behind) {
      try {
        await bringForward(options, row, furthest);
      } catch (error) {
        if (!(error instanceof Fault) || error.reaction !== 'operator') throw error;
        const { part, parts } = row;
        const advice = `Before its tables can be shared out anew, part ${part} of ${parts} has to come as far as the others: set "partitions" back to ${parts} and replay it`;
        throw new Fault(error.kind, `${error.message}. ${advice}`, error.facts, { cause: error.cause });
      }
    }
    if (behind.length === 0) return (rows[0] as Row).layout;
  }
}

async function bringForward({ changelogs, source, signal, openPart }: LayoutOptions, row: Row, to: Position): Promise<void> {
  const projection = await openPart({ index: row.part, of: row.parts }, row.layout);
  try {
    const after = await projection.position();
    const wants = (table: string) => projection.wants?.(table) ?? true;
    let batches: StoredBatch[] = [];
    let bytes = 0;
    for await (const batch of changelogs.read(source, { after, signal, wants })) {
      batches.push(leaveOut(batch, projection.held()));
      bytes += batch.bytes;
      const { header } = batch;
      const arrived = !header.more && compareSourcePosition(header.position, to) >= 0;
      if (!arrived && bytes < GROUP_BYTES) continue;
      const position = { seq: batch.seq, ...header.position, epoch: header.epoch };
      const accepted = await projection.apply({ batches, after: position, watermark: header.watermark, partial: header.more });
      if (arrived && accepted)
        throw new Fault(
          'not_complete',
          `tables of ${source} wait for rows that their foreign keys refer to: they cannot be shared out yet`,
        );
      if (arrived) return;
      batches = [];
      bytes = 0;
    }
    signal.throwIfAborted();
  } finally {
    await projection.close();
  }
}

/** Step 3. */
async function share(options: LayoutOptions, layout: number): Promise<void> {
  const { session, sink, source, parts } = options;
  const shares = shareOut(await loads(options), parts);
  await session.transaction('', async () => {
    const rows = await read(options, 'FOR UPDATE');
    const position = rows[0]?.position as Position;
    const level = rows.every((row) => row.layout === layout && compareSourcePosition(row.position, position) === 0);
    assert(level, `parts of ${sink}/${source} do not stand at ${formatSourcePosition(position)} together`);
    const all = 'WHERE sink = $1 AND source = $2';
    await session.run(`DELETE FROM tributary.position ${all} AND part > 1`, [sink, source]);
    await session.run(`UPDATE tributary.position SET parts = $3, layout = layout + 1 ${all}`, [sink, source, parts]);
    await session.run(
      `INSERT INTO tributary.position (sink, source, part, parts, layout, seq, lsn, ordinal, watermark, epoch)
       SELECT sink, source, n, parts, layout, seq, lsn, ordinal, watermark, epoch FROM tributary.position, generate_series(2, $3::int) n ${all}`,
      [sink, source, parts],
    );
    await session.run(`DELETE FROM tributary.parts ${all}`, [sink, source]);
    if (parts === 1) return;
    await session.run(
      `INSERT INTO tributary.parts (sink, source, layout, name, part)
       SELECT $1, $2, $3::bigint, name, part FROM unnest($4::text[], $5::int[]) s(name, part)`,
      [sink, source, layout + 1, [...shares.keys()], [...shares.values()]],
    );
  });
}

/** The tables made so far, with what their target's statistics say was written to them, and what ties them. */
async function loads({ session, sink, source }: LayoutOptions): Promise<Load[]> {
  const tables = await session.rows<{ name: string; oid: number; weight: number }>(
    `SELECT t.name, c.oid::int8::float8 AS oid, coalesce(s.n_tup_ins + s.n_tup_upd + s.n_tup_del, 0)::float8 AS weight
       FROM tributary.tables t JOIN pg_class c ON c.oid = to_regclass(t.target) LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
      WHERE t.sink = $1 AND t.source = $2 ORDER BY t.name`,
    [sink, source],
  );
  const ties = new Map(tables.map(({ oid, name }) => [oid, name]));
  const keys = await session.rows<{ from: number; to: number }>(
    `SELECT conrelid::int8::float8 AS from, confrelid::int8::float8 AS to FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY ($1::float8[]::int8[]::oid[])`,
    [tables.map(({ oid }) => oid)],
  );
  for (const { from, to } of keys) {
    const [kept, given] = [ties.get(from), ties.get(to)];
    if (kept === undefined || given === undefined) continue;
    for (const [oid, tie] of ties) if (tie === given) ties.set(oid, kept);
  }
  return tables.map(({ name, oid, weight }) => ({ name, weight, tie: ties.get(oid) as string }));
}
