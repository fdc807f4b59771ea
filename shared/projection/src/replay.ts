import { type Changelogs, type ReplayPlace, replayPlace } from '@tributary/changelog';
import { type Clock, compareSourcePosition, Fault, formatSourcePosition, parseSourcePosition } from '@tributary/core';
import type { Order } from './order.ts';
import type { Projection } from './projection.ts';
import { surveyWindow, type Window } from './window.ts';

/** What a replay tells of itself as it goes. */
export interface ReplayPart {
  readonly done: boolean;
  readonly projection: string;
  /** Changelog messages applied again, of so many. */
  readonly messages: number;
  readonly of: number;
  /** Where it began. */
  readonly from: string;
  /** Tables whose changes cannot be applied twice; they stay as they are. */
  readonly kept: readonly string[];
}

const PROGRESS_MS = 250;
/** All of it is replayed. */
const EVERYTHING: Window = { kept: new Set(), begun: new Map() };

export interface ReplayOptions {
  /** `<sink>/<source>`. */
  readonly name: string;
  readonly source: string;
  readonly changelogs: Changelogs;
}

/**
 * Sets a projection back to `to`. From the start: it is emptied. From the middle: it keeps its state, and what follows is
 * applied once more over it; tables for which that would not be exact stay as they are.
 * @returns the tables that stay
 * @throws Fault `outside_history` when the projection does not stand behind `to`: going there would skip changes
 */
export async function goBack(
  projection: Projection,
  { name, source, changelogs }: ReplayOptions,
  { to, signal }: { to: ReplayPlace; signal: AbortSignal },
): Promise<readonly string[]> {
  if (to.seq === 0) {
    await projection.reset();
    return [];
  }
  const until = await projection.position();
  const { watermark, ...position } = to;
  const lost = await changelogs.foreign(source, until);
  if (lost) {
    const common = String(lost.facts['replayFrom']);
    if (common === 'start' || compareSourcePosition(to, parseSourcePosition(common)) > 0) {
      const message = `${name} holds what this changelog does not: replay it from ${common}, or from before that`;
      throw new Fault('outside_history', message, { projection: name }, { cause: lost });
    }
    const none: ReadonlySet<string> = new Set();
    await projection.rewind({ to: position, watermark, until, kept: none, begun: new Map(), foreign: true });
    return [];
  }
  if (compareSourcePosition(to, until) > 0) {
    throw new Fault(
      'outside_history',
      `${name} stands at ${formatSourcePosition(until)}: it has not come to ${formatSourcePosition(to)} yet, and going there would skip changes`,
      { projection: name },
    );
  }
  const window = projection.repeats ? EVERYTHING : await surveyWindow(changelogs, source, { from: to, to: until, signal });
  await projection.rewind({ to: position, watermark, until, ...window, foreign: false });
  return [...window.kept].toSorted();
}

/** Answers one question to replay: checks where, has it done, and tells how far it is until it has caught up. */
export async function* answerReplay(
  options: ReplayOptions & { readonly clock: Clock },
  from: string,
  driver: {
    readonly obey: (order: Order) => void;
    readonly reached: (seq: number) => Promise<void>;
    readonly seq: () => number;
  },
): AsyncGenerator<ReplayPart> {
  const { changelogs, source, name, clock } = options;
  const to = await replayPlace(changelogs, source, from);
  const status = await changelogs.status(source);
  const target = status?.lastSeq ?? 0;
  const before = Math.max(to.seq, (status?.firstSeq ?? 1) - 1);
  const kept = await new Promise<readonly string[]>((done, failed) => {
    const obey: Order['obey'] = async (projection, signal) => done(await goBack(projection, options, { to, signal }));
    driver.obey({ obey, failed });
  });
  let arrived = false;
  let failure: { readonly error: unknown } | null = null;
  const end = driver.reached(target).then(
    () => {
      arrived = true;
    },
    (error: unknown) => {
      failure = { error };
    },
  );
  while (!arrived) {
    await Promise.race([end, clock.sleep(PROGRESS_MS)]);
    const failed = failure as { readonly error: unknown } | null;
    if (failed) throw failed.error;
    const of = Math.max(0, target - before);
    const messages = Math.min(of, Math.max(0, driver.seq() - before));
    yield { done: arrived, projection: name, messages, of, from: formatSourcePosition(to), kept };
  }
}
