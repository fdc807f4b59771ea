import type { Broker, EventMessage } from '@tributary/changelog';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BROKERS } from '../fixtures/brokers.ts';

const OPTIONS = { subject: 'e.*', replicas: 1, maxAgeMs: 0, maxBytes: 0 };
const message = (id: string, body = id): EventMessage => ({ subject: 'e.t', id, headers: { 'X-Place': id }, body });

describe.each(BROKERS)('event streams on $name', ({ open }) => {
  let broker: Broker;
  let other: Broker;
  let close: () => Promise<void>;

  beforeAll(async () => {
    ({ broker, other, close } = await open());
  });
  afterAll(() => close());

  it('tell what their last message says, to whoever opens them', async () => {
    const first = await broker.changelogs.eventStreams.open('E', OPTIONS);
    expect([first.lastSeq, first.lastHeaders]).toEqual([0, null]);
    expect(await Promise.all([first.append(message('1')), first.append(message('2')), first.append(message('3'))])).toEqual([
      1, 2, 3,
    ]);
    const second = await other.changelogs.eventStreams.open('E', OPTIONS);
    expect(second.lastSeq).toBe(3);
    expect(second.lastHeaders?.get('x-place')).toBe('3');
  });

  it('I3 take nothing from a writer whose place another has taken, pipelined or later', async () => {
    const slept = await broker.changelogs.eventStreams.open('F', { ...OPTIONS, subject: 'f.*' });
    const at = (id: string) => ({ ...message(id), subject: 'f.t' });
    await slept.append(at('1'));
    const awake = await other.changelogs.eventStreams.open('F', { ...OPTIONS, subject: 'f.*' });
    await awake.append(at('other 2'));
    const refused = await Promise.allSettled([slept.append(at('2')), slept.append(at('3')), slept.append(at('4'))]);
    expect(refused.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
    await expect(slept.append(at('5'))).rejects.toMatchObject({ kind: 'fenced' });
    expect(await awake.append(at('3'))).toBe(3);
  });

  it('hold an event once that two writers send to the same place', async () => {
    const slept = await broker.changelogs.eventStreams.open('G', { ...OPTIONS, subject: 'g.*' });
    const awake = await other.changelogs.eventStreams.open('G', { ...OPTIONS, subject: 'g.*' });
    const at = (id: string) => ({ ...message(id), subject: 'g.t' });
    expect(await Promise.all([slept.append(at('1')), slept.append(at('2'))])).toEqual([1, 2]);
    expect(await awake.append(at('1'))).toBe(1);
    expect(await awake.append(at('2'))).toBe(2);
    expect(await awake.append(at('3'))).toBe(3);
    const last = await broker.changelogs.eventStreams.open('G', { ...OPTIONS, subject: 'g.*' });
    expect(last.lastSeq).toBe(3);
    // An event that is there, but not where its writer would have it: this writer is not where it believes to be.
    await expect(last.append(at('2'))).rejects.toMatchObject({ kind: 'fenced' });
  });
});
