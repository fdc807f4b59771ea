import { wantsTable, type TransformConfig } from '@tributary/config';
import type { Changelogs } from '@tributary/changelog';
import { askOne, type Bus, Fault } from '@tributary/core';
import { targetNames } from './definition.ts';
import { ANSWER_MS } from './load-view.ts';
import { rowsAt, type RowsQuestion } from './rows.ts';
import { verifyTransform } from './verify.ts';

/** What a source, or a transform, answers to `barrier`. */
interface Barrier {
  readonly seq: number;
  readonly tables: readonly string[];
}

interface SnapshotPart {
  readonly done: boolean;
  readonly rows?: number;
}

export interface CommandOptions {
  readonly config: TransformConfig;
  readonly inputs: readonly string[];
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly signal: AbortSignal;
  /** Resolves when each input has been read up to its sequence, and the changelog says so. @returns its sequence then */
  readonly settled: (reached: ReadonlyMap<string, number>) => Promise<number>;
  /** Tells tables of the result anew, as a whole, where rows that are the same again would not go out. Resolves when that is in the changelog. */
  readonly retold: (tables: readonly string[]) => Promise<void>;
}

/**
 * Answers what a source answers, for those who read the result: up to where it holds everything that was committed
 * anywhere before the question, that rows be read again, which rows there are, and whether they are what its steps make of its inputs.
 */
export async function serveCommands(options: CommandOptions): Promise<(() => Promise<void>)[]> {
  const { config, bus } = options;
  const prefix = `tributary.source.${config.name}`;
  return [
    await bus.serve(`${prefix}.barrier`, async function* () {
      const inputs = await barriers(options);
      const seq = await options.settled(new Map([...inputs].map(([input, one]) => [input, one.seq])));
      const tables = [...inputs].flatMap(([input, one]) =>
        rowTables(config, input, one).flatMap((table) => targetNames(config, table)),
      );
      yield { seq, tables: [...new Set(tables)].toSorted() };
    }),
    await bus.serve(`${prefix}.snapshot`, (question) => snapshot(options, question as { table?: string })),
    await bus.serve(`${prefix}.verify`, (question) => verifyTransform(options, question as { table?: string })),
    await bus.serve(`${prefix}.rows`, (question) => rowsAt({ ...options, broker: options }, question as RowsQuestion)),
  ];
}

async function barriers({ inputs, bus }: CommandOptions): Promise<Map<string, Barrier>> {
  const asked = inputs.map(async (input) => {
    const barrier = await askOne<Barrier>(bus, `tributary.source.${input}.barrier`, {}, { idleMs: ANSWER_MS });
    return [input, barrier] as const;
  });
  return new Map(await Promise.all(asked));
}

function rowTables(config: TransformConfig, input: string, { tables }: Barrier): string[] {
  return tables.filter((table) => wantsTable(config, input, table));
}

/** Tables of the inputs are read again by their sources; what comes of it passes through like any other change. */
async function* snapshot(options: CommandOptions, { table }: { table?: string }): AsyncGenerator<unknown> {
  const { config, bus } = options;
  const wanted = table === undefined || table.includes('.') ? table : `public.${table}`;
  const found: { input: string; table: string }[] = [];
  for (const [input, barrier] of await barriers(options))
    for (const one of rowTables(config, input, barrier))
      if (wanted === undefined || targetNames(config, one).includes(wanted)) found.push({ input, table: one });
  if (found.length === 0) throw new Fault('not_found', `transform ${config.name} has no table ${wanted ?? ''}`);
  let rows = 0;
  for (const one of found) {
    const answer = bus.ask(`tributary.source.${one.input}.snapshot`, { table: one.table }, { idleMs: ANSWER_MS });
    let read = 0;
    for await (const part of answer) {
      const told = part as SnapshotPart;
      read = told.rows ?? read;
      if (!told.done) yield part;
    }
    rows += read;
  }
  const ends = await barriers(options);
  await options.settled(new Map([...ends].map(([input, one]) => [input, one.seq])));
  const tables = [...new Set(found.flatMap((one) => targetNames(config, one.table)))].toSorted();
  await options.retold(tables);
  yield { done: true, tables, rows };
}
