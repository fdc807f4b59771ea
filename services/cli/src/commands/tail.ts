import { type Change, changesOf, startOf } from '@tributary/changelog';
import { Fault, type StoredBatch, tableName } from '@tributary/core';
import { stopSignal } from '@tributary/ops';
import { connect, type Where } from '../addresses.ts';
import type { Output } from '../output.ts';

export interface TailOptions extends Where {
  readonly from: string;
  readonly limit?: string;
  readonly untilCaughtUp?: boolean;
  readonly types?: boolean;
}

/** Prints the changes of a source as JSON lines, from a place on, for ever or up to a limit. */
export async function tail(what: string, options: TailOptions, output: Output): Promise<void> {
  const [source = '', ...rest] = what.split('.');
  const wanted = rest.length === 1 ? `public.${rest[0]}` : rest.join('.');
  const limit = options.limit === undefined ? Number.POSITIVE_INFINITY : Number(options.limit);
  if (!(limit > 0)) throw new Fault('config_invalid', `--limit ${options.limit}: expected a number above 0`);
  const { broker } = await connect(options);
  const stop = stopSignal();
  try {
    const { changelogs } = broker;
    const status = await changelogs.status(source);
    if (!status)
      throw new Fault(
        'not_found',
        `there is no changelog ${source}. Changelogs: ${(await changelogs.list()).join(', ') || 'none'}`,
      );
    const { after, notBefore } = await startOf(changelogs, source, options.from);
    const until = options.untilCaughtUp ? status.lastSeq : Number.POSITIVE_INFINITY;
    if (after.seq >= until) return;
    let printed = 0;
    /** Shape of each table that was told last. */
    const told = new Map<string, string>();
    for await (const batch of changelogs.read(source, { after, signal: stop })) {
      if (batch.storedAt >= notBefore) {
        for (const change of changesOf(batch)) {
          if (wanted && `${change.schema}.${change.table}` !== wanted) continue;
          await writable();
          output.value(options.types ? typed(change, batch, told) : change);
          if (++printed >= limit) return;
        }
      }
      if (batch.seq >= until) return;
    }
  } finally {
    await broker.close();
  }
}

/** With the types of its columns where its table has another shape than was told before. */
function typed(change: Change, batch: StoredBatch, told: Map<string, string>): object {
  const name = `${change.schema}.${change.table}`;
  const section = batch.sections.find(({ schema }) => tableName(schema) === name);
  if (!section || told.get(name) === section.schemaVersion) return change;
  told.set(name, section.schemaVersion);
  return { ...change, types: Object.fromEntries(section.schema.columns.map((column) => [column.name, column.sqlType])) };
}

/** A slow reader of our stdout makes us wait, not grow. */
async function writable(): Promise<void> {
  if (!process.stdout.writableNeedDrain) return;
  await new Promise<void>((resolve) => process.stdout.once('drain', () => resolve()));
}
