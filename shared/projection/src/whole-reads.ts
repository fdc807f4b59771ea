import type { Changelogs, ReadOptions } from '@tributary/changelog';
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

/** Batches of a reading that are kept while its end is awaited; the end of a larger one is looked for beside them, bytes. */
const KEPT_BYTES = 2 ** 19;

/**
 * Reads a changelog; the batches of a reading in one piece come once the changelog holds its end: so nobody holds a transaction open for
 * as long as the source may need for it, or is away. Most are small and are kept until then: a reader of its own for each costs a
 * cluster of brokers a tenth of a second, and a changelog may hold thousands.
 *
 * @throws Fault `broker_unreachable` when the connection breaks meanwhile: the beginning may be lost, and then no end comes
 */
export async function* readInWholes(
  changelogs: Changelogs,
  source: string,
  options: Omit<ReadOptions, 'resumes'>,
): AsyncGenerator<StoredBatch> {
  const reads = new WholeReads();
  let kept: StoredBatch[] = [];
  let bytes = 0;
  /** The changelog holds the end of what is being read. */
  let there = false;
  for await (const batch of changelogs.read(source, { ...options, resumes: () => !reads.open })) {
    reads.pass(batch.header);
    if (reads.open && !there) {
      kept.push(batch);
      bytes += batch.bytes;
      if (bytes <= KEPT_BYTES) continue;
      await wholeIsThere(changelogs, source, { batch: kept[0] as StoredBatch, signal: options.signal });
      there = true;
    } else kept.push(batch);
    if (!reads.open) there = false;
    bytes = 0;
    yield* kept;
    kept = [];
  }
}

/** Where a reading in one piece begins with a batch, waits until the changelog holds its end. @throws as {@link readInWholes} */
async function wholeIsThere(
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
