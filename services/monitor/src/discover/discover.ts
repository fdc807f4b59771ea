import type { Changelogs } from '@tributary/changelog';
import { ORIGIN } from '@tributary/core';
import { type Proposal, propose } from './propose.ts';
import { Survey } from './survey.ts';

/**
 * Reads what the changelogs hold at this moment, and proposes processes that show in it, best first.
 * @throws whatever {@link Changelogs.read} throws
 */
export async function discover(
  changelogs: Changelogs,
  { sources, signal }: { readonly sources: readonly string[]; readonly signal: AbortSignal },
): Promise<Proposal[]> {
  const survey = new Survey();
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
  }
  return propose([...survey.tables.values()]);
}
