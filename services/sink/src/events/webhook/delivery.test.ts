import { createHmac } from 'node:crypto';
import { memoryBroker } from '@tributary/changelog';
import { ORIGIN, systemClock } from '@tributary/core';
import { type Answer, Backoff, type Message, Signer } from '@tributary/projection';
import { describe, expect, it } from 'vitest';
import type { OutEvent } from '../event.ts';
import { type Noted, NOTHING_SENT } from '../standing.ts';
import { Delivery, type DeliveryOptions } from './delivery.ts';
import { EventQuarantine } from './quarantine.ts';

const REFUSED: Answer = { kind: 'refused', reason: 'host answered 422', retryAfterMs: null };
const AWAY: Answer = { kind: 'away', reason: 'host: ECONNREFUSED', retryAfterMs: null };
const at = (n: number) => ({ seq: n, lsn: BigInt(n), ordinal: 1 });

function event(n: number, key: string): OutEvent {
  const place = { lsn: BigInt(n), ordinal: 1, row: 0, part: 0 };
  const plain = { contentType: 'application/json', headers: {}, words: null };
  return { id: `id${n}`, place, table: 'public.t', tables: ['public.t'], keys: [key], body: `{"n":${n}}`, ...plain };
}

/** A delivery to a receiver that answers as told; without waits between tries. */
async function open(answer: (message: Message) => Answer | Promise<Answer>, more: Partial<DeliveryOptions> = {}) {
  const { letters = memoryBroker().changelogs.deadLetters } = {};
  const quarantine = await EventQuarantine.open({ letters, projection: 'events/s', clock: systemClock });
  const notes: Noted[] = [];
  const posted: string[] = [];
  const delivery = new Delivery(
    {
      target: { concurrency: 4, batch: 1, retries: { attempts: 3, firstMs: 0, mostMs: 0 } },
      onError: 'quarantine',
      receiver: {
        post: async (message) => {
          posted.push(message.id);
          return answer(message);
        },
      },
      backoff: new Backoff({ firstMs: 0, mostMs: 0 }, () => 0),
      note: { write: async (noted) => void notes.push(noted) },
      quarantine,
      clock: systemClock,
      ...more,
    },
    NOTHING_SENT,
  );
  return { delivery, quarantine, letters, notes, posted };
}

describe('delivery', () => {
  it('notes what was taken before it counts as settled', async () => {
    const { delivery, notes, posted } = await open(() => ({ kind: 'taken' }));
    for (const n of [1, 2, 3]) await delivery.send(event(n, `k${n}`), ORIGIN);
    await delivery.settle(at(3));
    expect(posted).toEqual(['id1', 'id2', 'id3']);
    expect(notes.at(-1)).toMatchObject({ missing: new Set(), done: { lsn: 3n } });
  });

  it('puts a row aside whose event is refused to the end, and what comes after it; others go on', async () => {
    let mended = false;
    const { delivery, quarantine, letters, posted } = await open(({ id }) =>
      id === 'id1' && !mended ? REFUSED : { kind: 'taken' },
    );
    await delivery.send(event(1, 'bad'), ORIGIN);
    await delivery.send(event(2, 'good'), ORIGIN);
    await delivery.send(event(3, 'bad'), ORIGIN);
    await delivery.settle(at(3));
    expect(posted.filter((id) => id === 'id1').length).toBe(3);
    expect(posted).not.toContain('id3');
    expect(quarantine.facts()).toEqual({ tables: ['public.t'], batches: 2 });
    expect((await letters.list('events/s')).map((one) => one.reason?.message)).toEqual([
      'host answered 422 to an event of public.t at 0/1:1, after 3 attempt(s)',
      undefined,
    ]);
    await expect(delivery.letters('retry', undefined)).rejects.toMatchObject({ kind: 'receiver_refused' });
    mended = true;
    expect(await delivery.letters('retry', undefined)).toBe(2);
    expect(posted.slice(-2)).toEqual(['id1', 'id3']);
    expect(await letters.list('events/s')).toEqual([]);
    await delivery.send(event(4, 'bad'), ORIGIN);
    await delivery.settle(at(4));
    expect(posted.at(-1)).toBe('id4');
  });

  it('halts where that is wanted, and stands before the event', async () => {
    const { delivery, notes } = await open(({ id }) => (id === 'id1' ? REFUSED : { kind: 'taken' }), { onError: 'halt' });
    await delivery.send(event(1, 'bad'), ORIGIN);
    await expect(delivery.settle(at(1))).rejects.toMatchObject({ kind: 'receiver_refused' });
    await delivery.drain();
    expect(notes.at(-1)?.missing.size).toBe(1);
  });

  it('puts nothing aside while the receiver takes nothing at all', async () => {
    const { delivery, quarantine } = await open(() => AWAY);
    await delivery.send(event(1, 'a'), ORIGIN);
    await expect(delivery.settle(at(1))).rejects.toMatchObject({ kind: 'receiver_away' });
    expect(quarantine.facts().batches).toBe(0);
  });

  it('sends several in one request, and each alone when that is refused', async () => {
    let first: () => void = () => {};
    const held = new Promise<void>((resolve) => (first = resolve));
    const bodies: string[] = [];
    const { delivery, quarantine } = await open(
      async ({ id, body }) => {
        if (id === 'id1') await held;
        bodies.push(body);
        return body.includes('"n":3') ? REFUSED : { kind: 'taken' };
      },
      { target: { concurrency: 1, batch: 10, retries: { attempts: 1, firstMs: 0, mostMs: 0 } } },
    );
    for (const n of [1, 2, 3, 4]) await delivery.send(event(n, `k${n}`), ORIGIN);
    first();
    await delivery.settle(at(4));
    expect(bodies).toEqual(['{"n":1}', '[{"n":2},{"n":3},{"n":4}]', '{"n":2}', '{"n":3}', '{"n":4}']);
    expect(quarantine.facts().batches).toBe(1);
  });

  it('goes on after a pause that the receiver asked for, though the timer fired before its time', async () => {
    let asked = 0;
    const answer = (): Answer =>
      asked++ === 0 ? { kind: 'away', reason: 'host answered 503', retryAfterMs: 50 } : { kind: 'taken' };
    const early = { ...systemClock, monotonic: () => 1_000, sleep: () => Promise.resolve() };
    const { delivery, posted } = await open(answer, { clock: early });
    await delivery.send(event(1, 'a'), ORIGIN);
    await delivery.settle(at(1));
    expect(posted).toEqual(['id1', 'id1']);
  });

  it('takes no more than it can hold', async () => {
    const { delivery } = await open(() => new Promise<Answer>(() => {}));
    let n = 0;
    while (delivery.send(event(++n, `k${n}`), ORIGIN) === null);
    expect(n).toBe(512);
  });
});

describe('back-off', () => {
  it('doubles up to its bound, is shortened by chance by a half at most, and never shorter than asked', () => {
    const certain = new Backoff({ firstMs: 100, mostMs: 1_000 }, () => 0);
    expect([1, 2, 3, 4, 5, 60].map((n) => certain.ms(n, null))).toEqual([100, 200, 400, 800, 1_000, 1_000]);
    expect(new Backoff({ firstMs: 100, mostMs: 1_000 }, () => 1).ms(3, null)).toBe(200);
    expect(certain.ms(1, 5_000)).toBe(5_000);
  });
});

describe('signatures', () => {
  it('are those of Standard Webhooks, one a secret', () => {
    const key = Buffer.from('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'base64');
    const signer = new Signer([`whsec_${key.toString('base64')}`, 'a text of more than 24 bytes']);
    const headers = signer.headers('msg_p5jXN8AQM9LWM0D4loKWxJek', '{"test": 2432232314}', 1_614_265_330_999);
    // The example of the standard's own libraries.
    expect(headers['webhook-signature']?.split(' ')[0]).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
    expect(headers['webhook-timestamp']).toBe('1614265330');
    const second = createHmac('sha256', 'a text of more than 24 bytes').update(
      'msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}',
    );
    expect(headers['webhook-signature']?.split(' ')[1]).toBe(`v1,${second.digest('base64')}`);
  });
});
