import type { Changelogs } from '@tributary/changelog';
import { type BatchHeader, type Lsn, parseLsn, type StoredBatch } from '@tributary/core';

type Read = Pick<BatchHeader, 'mark' | 'position' | 'more'>;

/**
 * Which tables are being read in one piece. What such a reading saw of transactions that come behind it is left out of the
 * stream, by the word of the reading alone. A broker that crashes may lose it, and the next leader then knows nothing of it:
 * so no projection may stand between its `begin` and the place where nothing is left out any more.
 */
export class WholeReads {
  readonly #tables = new Map<string, { readonly until: Lsn; ended: boolean }>();

  get open(): boolean {
    return this.#tables.size > 0;
  }

  pass({ mark, position, more }: Read): void {
    if (mark?.step === 'begin') {
      if (mark.progress === undefined) this.#tables.delete(mark.table);
      else this.#tables.set(mark.table, { until: parseLsn(mark.progress), ended: false });
    }
    const ending = mark?.step === 'end' ? this.#tables.get(mark.table) : undefined;
    if (ending) ending.ended = true;
    // Every table is read again behind it.
    if (mark?.step === 'gap') this.#tables.clear();
    if (more) return;
    for (const [name, { until, ended }] of this.#tables) if (ended && position.lsn >= until) this.#tables.delete(name);
  }
}

/**
 * Where a reading in one piece begins with a batch, waits until the changelog holds its end: only then is it taken, so that nobody holds
 * a transaction open for as long as the source may need for it, or is away.
 *
 * @throws Fault `broker_unreachable` when the connection breaks meanwhile: the beginning may be lost, and then no end comes
 */
export async function wholeIsThere(
  changelogs: Changelogs,
  source: string,
  { batch, signal }: { readonly batch: StoredBatch; readonly signal: AbortSignal },
): Promise<void> {
  const { seq, header } = batch;
  const reads = new WholeReads();
  reads.pass(header);
  if (!reads.open) return;
  const stop = new AbortController();
  const after = { seq, ...header.position, epoch: header.epoch };
  const options = { after, signal: AbortSignal.any([signal, stop.signal]), wants: () => false, resumes: () => false };
  try {
    for await (const { header: next } of changelogs.read(source, options)) {
      reads.pass(next);
      if (!reads.open) return;
    }
  } finally {
    stop.abort();
  }
}
