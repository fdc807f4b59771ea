import type { Changelogs } from '@tributary/changelog';
import type { TransformConfig } from '@tributary/config';
import {
  type Bus,
  type Cell,
  type Column,
  Fault,
  formatLsn,
  keyColumns,
  ORIGIN,
  type Position,
  type TableSchema,
} from '@tributary/core';
import { temporaryState } from './state-file.ts';
import { connect, machineryOf } from './engine.ts';
import { loadView } from './load-view.ts';
import type { ResultState } from './result-state.ts';
import { keyText } from './table-state.ts';
import { type OutputState, readVector, START, type Vector } from './vector.ts';
import { View } from './view.ts';

export interface PreviewOptions {
  /** As it would be. */
  readonly config: TransformConfig;
  readonly inputs: readonly string[];
  readonly broker: { readonly changelogs: Changelogs; readonly bus: Bus };
  /** Of each kind of difference, at most so many rows are shown. */
  readonly samples: number;
  readonly signal: AbortSignal;
}

/** A row that differs: by column, as PostgreSQL's text; null = it is not there. */
export interface SampleRow {
  /** The texts of its key columns, joined by commas. */
  readonly key: string;
  readonly before: Readonly<Record<string, Cell>> | null;
  readonly after: Readonly<Record<string, Cell>> | null;
}

export interface TablePreview {
  /** `schema.table`. */
  readonly table: string;
  /** Rows as it would be; and as it is, null where there is no such table yet. */
  readonly rows: number;
  readonly rowsBefore: number | null;
  readonly added: number;
  readonly removed: number;
  /** Rows with another value in a column that was there before. */
  readonly changed: number;
  /** Names with types. `changed`: as it was and would be. */
  readonly columns: {
    readonly added: readonly string[];
    readonly removed: readonly string[];
    readonly changed: readonly { readonly column: string; readonly before: string; readonly after: string }[];
  };
  readonly samples: readonly SampleRow[];
}

export interface Preview {
  readonly transform: string;
  /** Where in each input both were made. */
  readonly at: Readonly<Record<string, string>>;
  readonly tables: readonly TablePreview[];
  /** Changelogs that no longer reach back to their beginning: rows that were not touched since are missing on that side. */
  readonly incomplete: readonly string[];
}

/**
 * What steps would make of the rows of their inputs, beside what stands in the transform's changelog now: both from history, at the same place,
 * in temporary files. Nothing that runs is touched.
 * @throws Fault `config_invalid` (steps that do not fit), `poison` (a value that cannot be computed), `not_found`
 */
export async function previewTransform(options: PreviewOptions): Promise<Preview> {
  const { config, inputs } = options;
  const last = await settledEnd(options);
  const state = (last?.state ?? null) as OutputState | null;
  const target = await targetOf(options, readVector(state?.inputs, inputs));
  const end = last && { seq: last.seq, ...last.header.position };
  const after = await made(options, { config, inputs, target });
  try {
    const before = await held(options, end);
    try {
      return {
        transform: config.name,
        at: Object.fromEntries([...target].map(([input, { lsn }]) => [input, formatLsn(lsn)])),
        tables: await compareResults(before.results, after.results, options.samples),
        incomplete: [...after.trimmed, ...before.trimmed],
      };
    } finally {
      await before.close();
    }
  } finally {
    await after.close();
  }
}

/** The rows that a transform's changelog holds at a place of it, in temporary files; null = at its beginning. */
export function held({ config, ...rest }: Making, end: Position | null): Promise<Made> {
  const itself: TransformConfig = { name: config.name, from: [`${config.name}.*`], steps: [], places: [] };
  const target: Vector = end ? new Map([[config.name, { ...end, watermark: 0 }]]) : new Map();
  return made({ config, ...rest }, { config: itself, inputs: end ? [config.name] : [], target });
}

/** Where the result stands in its inputs; of an input that it has not read, the end. */
async function targetOf({ inputs, broker }: PreviewOptions, known: Vector): Promise<Vector> {
  const ends = inputs.map(async (input) => {
    const place = known.get(input) ?? START;
    if (place.lsn > ORIGIN.lsn) return [input, place] as const;
    const newest = await broker.changelogs.last(input);
    if (!newest) throw new Fault('not_found', `there is no changelog ${input} yet`);
    return [input, { seq: newest.seq, ...newest.header.position, watermark: newest.header.watermark }] as const;
  });
  return new Map(await Promise.all(ends));
}

/** The newest message of the result, unless that is in the middle of a transaction. */
async function settledEnd({ config, broker }: PreviewOptions) {
  const last = await broker.changelogs.last(config.name);
  if (last?.header.more)
    throw new Fault('not_found', `transform ${config.name} is in the middle of a large transaction; ask again when it has ended`);
  return last;
}

type Making = Pick<PreviewOptions, 'config' | 'broker' | 'signal'>;

interface Made {
  readonly results: readonly ResultState[];
  /** Inputs whose history does not reach back to their beginning. */
  readonly trimmed: readonly string[];
  /** Removes the temporary files. */
  close(): Promise<void>;
}

async function made(
  { broker, signal }: Making,
  { config, inputs, target }: { config: TransformConfig; inputs: readonly string[]; target: Vector },
): Promise<Made> {
  const { database, remove } = await temporaryState();
  const close = async () => {
    database.close();
    await remove();
  };
  try {
    const duck = await connect(database);
    const machinery = machineryOf(config, duck);
    const { view } = await View.open(duck, { transform: config, machinery, definition: '', inputs });
    const { changelogs, bus } = broker;
    const given = { transform: config, definition: '', inputs, changelogs, bus, signal };
    const trimmed = await loadView(view, given, { from: null, target });
    return { results: view.results, trimmed, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function compareResults(
  before: readonly ResultState[],
  after: readonly ResultState[],
  samples: number,
): Promise<TablePreview[]> {
  const names = [...new Set([...before, ...after].map(({ name }) => name))].toSorted();
  const tables: TablePreview[] = [];
  for (const name of names) {
    const of = (results: readonly ResultState[]) => results.find((one) => one.name === name) ?? null;
    tables.push(await compareTable(name, { before: of(before), after: of(after), samples }));
  }
  return tables;
}

function namesOf(result: ResultState | null): string[] {
  return (result?.schema.columns ?? []).map(({ name }) => name);
}

interface Row {
  readonly key: Buffer;
  /** The key, to be read. */
  readonly name: string;
  readonly cells: Readonly<Record<string, Cell>>;
}

async function compareTable(
  table: string,
  { before, after, samples }: { before: ResultState | null; after: ResultState | null; samples: number },
): Promise<TablePreview> {
  const columns = compareColumns(before?.schema ?? null, after?.schema ?? null);
  const common = namesOf(after).filter((name) => before?.schema.columns.some((one) => one.name === name));
  const counts = { rows: 0, rowsBefore: 0, added: 0, removed: 0, changed: 0 };
  const shown: Record<'added' | 'removed' | 'changed', SampleRow[]> = { added: [], removed: [], changed: [] };
  const tell = (what: keyof typeof shown, sample: SampleRow) => {
    counts[what]++;
    if (shown[what].length < samples) shown[what].push(sample);
  };
  // Rows without a key are told apart by the columns that both have: of equal ones there must be as many.
  const keyless = [before, after].some((one) => one !== null && keyColumns(one.schema).length === 0);
  const by = keyless ? (before && after ? common : namesOf(before ?? after)) : null;
  for await (const [old, now] of paired(rowsOf(before, by), rowsOf(after, by))) {
    if (old) counts.rowsBefore++;
    if (now) counts.rows++;
    const key = (now ?? old)?.name ?? '';
    const sample = { key, before: old?.cells ?? null, after: now?.cells ?? null };
    if (!old) tell('added', sample);
    else if (!now) tell('removed', sample);
    else if (common.some((name) => old.cells[name] !== now.cells[name])) tell('changed', sample);
  }
  return {
    table,
    ...counts,
    rowsBefore: before ? counts.rowsBefore : null,
    columns,
    samples: [...shown.added, ...shown.removed, ...shown.changed],
  };
}

function compareColumns(before: TableSchema | null, after: TableSchema | null): TablePreview['columns'] {
  const types = (schema: TableSchema | null) => new Map((schema?.columns ?? []).map(({ name, sqlType }) => [name, sqlType]));
  const [old, now] = [types(before), types(after)];
  const only = (these: ReadonlyMap<string, string>, those: ReadonlyMap<string, string>) =>
    [...these].flatMap(([name, type]) => (those.has(name) ? [] : [`${name} ${type}`]));
  if (!before || !after) return { added: before ? [] : only(now, old), removed: after ? [] : only(old, now), changed: [] };
  const changed = [...now].flatMap(([column, type]) => {
    const was = old.get(column);
    return was === undefined || was === type ? [] : [{ column, before: was, after: type }];
  });
  return { added: only(now, old), removed: only(old, now), changed };
}

/**
 * In the order of their keys, by bytes.
 * @param by names of columns that stand for the key; null = the key
 */
async function* rowsOf(result: ResultState | null, by: readonly string[] | null): AsyncGenerator<Row> {
  if (!result) return;
  const { columns } = result.schema;
  const chosen = by?.map((name) => columns.findIndex((column) => column.name === name)) ?? null;
  const key = chosen ?? keyColumns(result.schema);
  for await (const { rows, section } of result.all(chosen)) {
    const cells = section.columns.map((column: Column) => column.values());
    for (let row = 0; row < rows; row++) {
      const own = cells.map((column) => column[row]);
      yield {
        key: Buffer.from(keyText(own, key), 'utf8'),
        name: key.map((c) => own[c]).join(','),
        cells: Object.fromEntries(columns.map(({ name }, c) => [name, own[c]])),
      };
    }
  }
}

async function* paired(before: AsyncGenerator<Row>, after: AsyncGenerator<Row>): AsyncGenerator<[Row | null, Row | null]> {
  const take = async (rows: AsyncGenerator<Row>) => ((await rows.next()).value as Row | undefined) ?? null;
  let [old, now] = [await take(before), await take(after)];
  while (old || now) {
    const order = !old ? 1 : !now ? -1 : Buffer.compare(old.key, now.key);
    yield [order <= 0 ? old : null, order >= 0 ? now : null];
    if (order <= 0) old = await take(before);
    if (order >= 0) now = await take(after);
  }
}
