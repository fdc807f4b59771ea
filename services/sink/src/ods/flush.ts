import { Fault } from '@tributary/core';
import { parentsFirst } from './order.ts';
import type { Folded, TableWriter } from './table-writer.ts';

/** What a writer had folded when it was to be written. */
export interface Taken {
  readonly writer: TableWriter;
  readonly deletesFirst: boolean;
  readonly folded: Folded;
}

export function takeAll(writers: Iterable<TableWriter>): Taken[] {
  return [...writers].map((writer) => ({ writer, deletesFirst: writer.deletesFirst, folded: writer.take() }));
}

/** What was folded is written: tables that are tied in the order of their ties, so that keys which are checked at once find their rows. */
export async function flush(taken: readonly Taken[]): Promise<void> {
  const deletes = ({ writer, folded }: Taken) => about(writer.table.name, () => writer.flushDeletes(folded));
  const writes = ({ writer, folded }: Taken) => about(writer.table.name, () => writer.flushWrites(folded));
  if (!taken.some(({ writer }) => writer.table.tied)) {
    for (const one of taken) {
      await deletes(one);
      await writes(one);
    }
    return;
  }
  const ordered = parentsFirst(taken, ({ writer }) => writer.table);
  const reversed = ordered.toReversed();
  for (const one of reversed) if (one.deletesFirst) await deletes(one);
  for (const one of ordered) await writes(one);
  for (const one of reversed) await deletes(one);
}

/** Adds to a fault of which table it is, so that this one alone can be put aside. */
export async function about<T>(sourceTable: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    throw new Fault(error.kind, error.message, { ...error.facts, sourceTable }, { cause: error.cause });
  }
}
