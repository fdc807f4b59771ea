import type { JetStreamManager, Msg, NatsConnection } from 'nats';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { NatsLink } from './connection.ts';
import { followStream } from './follow.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

/** A server that only says that it lives, and a leader that says where the stream ends. */
function reader(leadersEnd: () => number) {
  const beats: NodeJS.Timeout[] = [];
  const deliver: ((seq: number) => void)[] = [];
  const connection = {
    subscribe(_subject: string, { callback }: { callback: (error: null, message: Msg) => void }) {
      const heartbeat = { headers: { code: 100, description: '' }, reply: '', data: new Uint8Array() } as unknown as Msg;
      const beat = setInterval(() => callback(null, heartbeat), 1_000);
      beats.push(beat);
      deliver.push((seq) => callback(null, { reply: `$JS.ACK.s.c.1.${seq}.1.0.0`, data: new Uint8Array(1) } as Msg));
      return { unsubscribe: () => clearInterval(beat) };
    },
    publish() {},
    isClosed: () => false,
  } as unknown as NatsConnection;
  const link = { connection, onBreak: () => () => {} } as unknown as NatsLink;
  const jsm = {
    consumers: { add: async () => ({ name: 'c' }), delete: async () => true },
    streams: { info: async () => ({ state: { messages: 1, last_seq: leadersEnd() } }) },
  } as unknown as JetStreamManager;
  const stop = new AbortController();
  const seqs: number[] = [];
  let ended = false;
  const reading = (async () => {
    const options = { signal: stop.signal, readAheadBytes: 4_000, consumer: { opt_start_seq: 5 } };
    for await (const { seq } of followStream(link, jsm, 's', options)) seqs.push(seq);
    ended = true;
  })();
  return {
    seqs,
    ended: () => ended,
    deliver: (seq: number) => deliver[0]?.(seq),
    async stop() {
      stop.abort();
      await vi.advanceTimersByTimeAsync(1_000);
      await reading;
    },
  };
}

it('a reader ends when the leader holds more than the copy that it is given: the next one may be served from another', async () => {
  const one = reader(() => 6);
  await vi.advanceTimersByTimeAsync(1_000);
  one.deliver(5);
  await vi.advanceTimersByTimeAsync(15_000);
  expect(one.seqs).toEqual([5]);
  expect(one.ended()).toBe(false);
  await vi.advanceTimersByTimeAsync(8_000);
  expect(one.ended()).toBe(true);
  await one.stop();
});

it('a reader stays where there is no more, or where it comes late', async () => {
  let end = 4;
  const one = reader(() => end);
  await vi.advanceTimersByTimeAsync(30_000);
  expect(one.ended()).toBe(false);
  end = 5;
  await vi.advanceTimersByTimeAsync(12_000);
  one.deliver(5);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(one.ended()).toBe(false);
  expect(one.seqs).toEqual([5]);
  await one.stop();
});
