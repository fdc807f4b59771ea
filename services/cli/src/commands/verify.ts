import { Fault } from '@tributary/core';
import { type Connected, connect, type Where } from '../addresses.ts';
import { caughtUp, type Layout, layoutOf, projectionSubject } from '../cluster.ts';
import { milliseconds, type Output, openProgress, table } from '../output.ts';

export interface VerifyOptions extends Where {
  readonly source?: string;
  readonly table?: string;
  readonly timeout: string;
  readonly repair?: boolean;
}

interface VerifiedTable {
  readonly source: string;
  readonly table: string;
  readonly projection: string;
  readonly rows: number;
  readonly equal: boolean;
  readonly differences: readonly { readonly key: string; readonly problem: string }[];
  /** Batches of it that wait in quarantine, because one could not be applied. */
  readonly quarantined?: number;
  /** Every key that differs, where the projection can name them all. */
  readonly keys?: readonly (readonly string[])[];
}

/** What was read again from the source. */
interface Repaired {
  readonly source: string;
  readonly table: string;
  /** Only these many keys; null = the whole table. */
  readonly keys: number | null;
  /** Rows that the source sent. */
  readonly rows: number;
}

/** Differences up to this number are repaired key by key; more by reading the whole table. */
const KEYS_MAX = 2_000;
/** A row that is missing may move to another key before it is read again, and then lacks there what the stream leaves out: so it is looked at again, and mended. */
const REPAIRS_MAX = 3;

/** What was compared, and what was not, with why: what was made of history that is not kept any more cannot be made anew. */
interface Comparison {
  readonly tables: readonly VerifiedTable[];
  readonly notCompared: readonly string[];
}

/**
 * Compares every projection of a database with it, table by table, and what every transform made with what its steps make now. With `--repair` what differs is read again from the source,
 * through the changelog into every projection, and compared again. @returns true when all are equal (in the end)
 */
export async function verify(options: VerifyOptions, output: Output): Promise<boolean> {
  const connected = await connect(options);
  try {
    let { tables, notCompared } = await compare(connected, options, output);
    const repaired: Repaired[] = [];
    for (let n = 0; options.repair && n < REPAIRS_MAX && tables.some((one) => !one.equal); n++) {
      if (!output.json) show(tables, output);
      repaired.push(...(await repair(connected, tables, output)));
      ({ tables, notCompared } = await compare(connected, options, output));
    }
    const equal = tables.every((one) => one.equal);
    const shown = tables.map(({ keys: _keys, ...one }) => one);
    if (output.json) output.value({ equal, tables: shown, notCompared, ...(options.repair ? { repaired } : {}) });
    else {
      for (const one of repaired) output.line(`Read again from source ${one.source}: ${repairedText(one)}`);
      show(tables, output);
      if (notCompared.length > 0) output.line(`Not compared: ${notCompared.join('; ')}`);
      output.line(
        tables.length === 0 ? 'There is nothing to compare.' : equal ? 'Everything is equal.' : 'There are differences.',
      );
    }
    return equal;
  } finally {
    await connected.broker.close();
  }
}

/** Right after a start workers have not told yet what they run: so long it is waited for something to compare, ms. */
const REGISTERED_MS = 10_000;

/** Events keep no rows that could be compared, and what KPIs keep is no copy of a table. */
const comparableOf = ({ projections }: Layout) => projections.filter(({ kind }) => !['events', 'kpi', 'process'].includes(kind));

async function registered(connected: Connected, timeoutMs: number): Promise<Layout> {
  const end = Date.now() + Math.min(REGISTERED_MS, timeoutMs);
  for (;;) {
    const layout = await layoutOf(connected);
    if (comparableOf(layout).length > 0 || Date.now() > end) return layout;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function compare(connected: Connected, options: VerifyOptions, output: Output): Promise<Comparison> {
  const layout = await registered(connected, milliseconds(options.timeout));
  if (options.source !== undefined && !layout.sources.includes(options.source)) {
    throw new Fault('not_found', `there is no source ${options.source}. Sources: ${layout.sources.join(', ')}`);
  }
  const sources = layout.sources.filter((one) => options.source === undefined || options.source === one);
  const sourceOf = (name: string) => name.slice(name.indexOf('/') + 1);
  const projections = comparableOf(layout).filter(({ name }) => sources.includes(sourceOf(name)));
  const barriers = await caughtUp(connected, { sources, projections }, Date.now() + milliseconds(options.timeout));
  const wanted = options.table?.includes('.') ? options.table : options.table && `public.${options.table}`;
  const tables: VerifiedTable[] = [];
  const notCompared: string[] = [];
  const progress = openProgress({ ...output, json: false }, 'verify');
  for (const { name, actors } of projections) {
    const source = sourceOf(name);
    const { seq, tables: captured, kept } = barriers.get(source) ?? { seq: 0, tables: [], kept: {} };
    const chosen = captured.filter((one) => wanted === undefined || one === wanted);
    if (wanted !== undefined && chosen.length === 0 && options.source !== undefined) {
      throw new Fault('not_found', `source ${source} has no captured table ${wanted}`);
    }
    if (chosen.length === 0) continue;
    const question = { tables: chosen, seq, kept, ...(options.repair ? { keysMax: KEYS_MAX } : {}) };
    const compared: VerifiedTable[] = [];
    const done = await comparing(notCompared, name, async () => {
      for (const actor of actors) {
        const answer = connected.broker.bus.ask(projectionSubject(actor, 'verify'), question, { idleMs: 600_000 });
        for await (const part of answer) {
          compared.push(part as VerifiedTable);
          progress.at(tables.length + compared.length, chosen.length * projections.length, part);
        }
      }
    });
    if (done) tables.push(...compared);
  }
  progress.end();
  for (const transform of sources.filter((one) => layout.transforms.has(one)))
    await comparing(notCompared, `transform ${transform}`, async () =>
      tables.push(...(await verifyTransform(connected, transform, wanted))),
    );
  return { tables: await withQuarantine(connected, tables), notCompared };
}

/** Faults of a comparison that say that there is nothing to compare with. */
const INCOMPARABLE = new Set<Fault['kind']>(['history_trimmed', 'config_invalid']);

/** @returns whether it could be compared; if not, what and why is noted */
async function comparing(notCompared: string[], what: string, work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof Fault) || !INCOMPARABLE.has(error.kind)) throw error;
    notCompared.push(`${what} (${error.message})`);
    return false;
  }
}

/** What the transform's changelog holds, beside what its steps make of its inputs up to the same place. */
async function verifyTransform({ broker }: Connected, transform: string, table: string | undefined): Promise<VerifiedTable[]> {
  const tables: VerifiedTable[] = [];
  const question = table === undefined ? {} : { table };
  for await (const part of broker.bus.ask(`tributary.source.${transform}.verify`, question, { idleMs: 600_000 }))
    tables.push(part as VerifiedTable);
  return tables;
}

/** Tells of tables whose changes are put aside: no wonder that they differ. */
async function withQuarantine({ broker }: Connected, tables: readonly VerifiedTable[]): Promise<VerifiedTable[]> {
  const counts = new Map<string, number>();
  for (const { projection, table: name } of await broker.changelogs.deadLetters.list()) {
    const id = `${projection.replace(/#\d+$/, '')} ${name}`;
    counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return tables.map((one) => {
    const quarantined = counts.get(`${one.projection}/${one.source} ${one.table}`);
    return quarantined === undefined ? one : { ...one, quarantined };
  });
}

/**
 * Asks the sources for what differs. It comes through the changelog like any other change, reconciled with the stream, so
 * it is exact while rows change, and reaches every projection in order. Keys that the source does not have are named as
 * deleted; a whole table is swept.
 */
async function repair(connected: Connected, tables: readonly VerifiedTable[], output: Output): Promise<Repaired[]> {
  const repaired: Repaired[] = [];
  const differing = new Map<string, VerifiedTable[]>();
  for (const one of tables) {
    if (one.equal) continue;
    const name = `${one.source} ${one.table}`;
    differing.set(name, [...(differing.get(name) ?? []), one]);
  }
  const progress = openProgress({ ...output, json: false }, 'repair');
  for (const parts of differing.values()) {
    const { source, table: name } = parts[0] as VerifiedTable;
    const keys = keysOf(parts);
    let rows = 0;
    const question = { table: name, ...(keys ? { keys } : {}) };
    for await (const part of connected.broker.bus.ask(`tributary.source.${source}.snapshot`, question, { idleMs: 600_000 })) {
      rows = (part as { rows?: number }).rows ?? rows;
    }
    repaired.push({ source, table: name, keys: keys?.length ?? null, rows });
    progress.at(repaired.length, differing.size, null);
  }
  progress.end();
  return repaired;
}

/** All keys of a table that differ somewhere; null when some projection could not name them, or there are too many. */
function keysOf(parts: readonly VerifiedTable[]): (readonly string[])[] | null {
  const keys = new Map<string, readonly string[]>();
  for (const part of parts) {
    if (!part.keys) return null;
    for (const key of part.keys) keys.set(JSON.stringify(key), key);
  }
  return keys.size > KEYS_MAX ? null : [...keys.values()];
}

function repairedText({ table: name, keys, rows }: Repaired): string {
  return keys === null ? `${name}, the whole table (${rows} rows)` : `${name}, ${keys} key(s) (${rows} rows)`;
}

function show(tables: readonly VerifiedTable[], output: Output): void {
  output.line(
    table(
      ['source', 'table', 'projection', 'rows', ''],
      tables.map((one) => [
        one.source,
        one.table,
        one.projection,
        one.rows,
        `${one.equal ? 'equal' : `${one.differences.length} or more keys differ`}${one.quarantined ? ` (${one.quarantined} batches in quarantine)` : ''}`,
      ]),
    ),
  );
  for (const one of tables)
    for (const { key, problem } of one.differences) output.line(`  ${one.projection} ${one.table}: ${key} is ${problem}`);
}
