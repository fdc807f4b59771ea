import type { Changelogs } from '@tributary/changelog';
import { ORIGIN } from '@tributary/core';
import { type Declared, type Proposal, propose } from './propose.ts';
import { Survey } from './survey.ts';

/** A foreign key that a database declares. */
export interface DeclaredReference {
  /** `schema.table`. */
  readonly table: string;
  readonly columns: readonly string[];
  readonly to: string;
  readonly toColumns: readonly string[];
}

/**
 * Reads what the changelogs hold at this moment, and proposes processes that show in it, best first.
 * @param references foreign keys of a source; none where it cannot say
 * @throws whatever {@link Changelogs.read} throws
 */
export async function discover(
  changelogs: Changelogs,
  {
    sources,
    references,
    signal,
  }: {
    readonly sources: readonly string[];
    readonly references: (source: string) => Promise<readonly DeclaredReference[]>;
    readonly signal: AbortSignal;
  },
): Promise<Proposal[]> {
  const survey = new Survey();
  const declared: Declared[] = [];
  for (const source of sources) {
    const last = (await changelogs.status(source))?.lastSeq ?? 0;
    if (last === 0) continue;
    const stop = new AbortController();
    // Where history was trimmed: from the first message that is there.
    const first = (await changelogs.seek(source, () => false))?.first;
    const after = first ? { seq: first.seq - 1, ...first.header.follows } : ORIGIN;
    for await (const batch of changelogs.read(source, { after, signal: AbortSignal.any([signal, stop.signal]) })) {
      survey.add(source, batch);
      if (batch.seq >= last) break;
    }
    stop.abort(new Error('read to its end'));
    for (const { table, columns, to, toColumns } of await references(source)) {
      const [[column, ...more], [key]] = [columns, toColumns];
      // A link is one column.
      if (column === undefined || key === undefined || more.length > 0) continue;
      declared.push({ child: `${source}.${table}`, column, parent: `${source}.${to}`, key });
    }
  }
  return propose([...survey.tables.values()], declared);
}
