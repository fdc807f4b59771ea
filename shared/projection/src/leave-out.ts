import { batchAfter } from '@tributary/changelog';
import { compareSourcePosition, type Section, type SourcePosition, type StoredBatch, tableName } from '@tributary/core';

/**
 * The batch without changes that some tables hold already: per table everything up to a position, marks of snapshots
 * included. Batches end where the position was taken, unless the stream was cut anew since: then the rest of one is kept.
 */
export function leaveOut(batch: StoredBatch, held: ReadonlyMap<string, SourcePosition>): StoredBatch {
  if (held.size === 0) return batch;
  const { header } = batch;
  const past = (table: string) => {
    const until = held.get(table);
    return until === undefined || compareSourcePosition(header.position, until) > 0;
  };
  const rest = (section: Section): Section[] => {
    const until = held.get(tableName(section.schema));
    if (until === undefined) return [section];
    if (compareSourcePosition(header.position, until) <= 0) return [];
    if (header.kind === 'read') return [section];
    return batchAfter({ ...batch, sections: [section] }, until).sections.map((one) => realigned(one, batch, until));
  };
  const sections = batch.sections.flatMap(rest);
  const mark = header.mark && !past(header.mark.table) ? null : header.mark;
  return { ...batch, header: { ...header, mark }, sections };
}

/** A section cut by `batchAfter` counts transactions from the first one it keeps; in this batch they keep their places. */
function realigned(section: Section, { header }: StoredBatch, until: SourcePosition): Section {
  const first = header.transactions.findIndex((transaction) => transaction.lsn > until.lsn);
  if (first <= 0) return section;
  return { ...section, transaction: section.transaction.map((t) => t + first) };
}
