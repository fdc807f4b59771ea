import type { Changelogs } from '@tributary/changelog';
import { type Bus, Fault } from '@tributary/core';
import type { Projection } from './projection.ts';

/** A source that reads tells of it several times a second; silent for this long, it is gone. */
const SILENT_MS = 20_000;

/**
 * Takes a projection over a hole in history: retention removed what it would read next.
 *
 * The source is asked to read every table again, and only when all of that is in the changelog is the position set to where
 * the retained history begins, before the first of those messages: so nothing has to be remembered of this, whoever dies
 * when, and what the projection holds stays readable until then. What it holds of before does no harm: a snapshot names
 * every row, and sweeps what it does not name. Its history, where it keeps one, has the hole.
 *
 * @throws Fault `source_silent` when the source does not answer; `history_trimmed` when retention is too small for one snapshot
 */
export async function bridge(
  projection: Pick<Projection, 'position' | 'rewind'>,
  { source, changelogs, bus }: { readonly source: string; readonly changelogs: Changelogs; readonly bus: Bus },
  signal: AbortSignal,
): Promise<void> {
  const before = (await changelogs.status(source))?.lastSeq ?? 0;
  await askSnapshot(bus, source, signal);
  const status = await changelogs.status(source);
  const sought = await changelogs.seek(source, () => false);
  if (!status || !sought || status.firstSeq > before + 1) {
    throw new Fault(
      'history_trimmed',
      `changelog ${source} does not hold even one snapshot of its source: raise changelog.maxBytes or changelog.maxAge`,
      { source, firstSeq: status?.firstSeq, begun: before + 1 },
    );
  }
  const { seq, header } = sought.first;
  const none: ReadonlySet<string> = new Set();
  const to = { seq: seq - 1, ...header.follows };
  const until = await projection.position();
  await projection.rewind({ to, watermark: 0, until, kept: none, begun: new Map(), foreign: true });
}

async function askSnapshot(bus: Bus, source: string, signal: AbortSignal): Promise<void> {
  try {
    for await (const _ of bus.ask(`tributary.source.${source}.snapshot`, {}, { idleMs: SILENT_MS, signal }));
  } catch (error) {
    if (signal.aborted || !(error instanceof Fault) || error.kind !== 'not_found') throw error;
    throw new Fault(
      'source_silent',
      `changelog ${source} no longer holds what this projection needs, and its source cannot be asked for a snapshot yet`,
      { source },
      { cause: error },
    );
  }
}
