import { type Broker, connectNats } from '@tributary/changelog';
import { askOne, Fault } from '@tributary/core';
import { freePort, obtainNatsServer, startNats, temporaryFolder } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BROKERS } from '../fixtures/brokers.ts';
import { TcpProxy } from '../fixtures/tcp-proxy.ts';
import { until } from '../fixtures/wait.ts';

describe.each(BROKERS)('bus on $name', ({ open }) => {
  let broker: Broker;
  let other: Broker;
  let close: () => Promise<void>;

  beforeAll(async () => {
    ({ broker, other, close } = await open());
  });
  afterAll(() => close());

  it('answers questions over the bus, in parts, and hands faults over', async () => {
    const stop = await broker.bus.serve('test.count', async function* (question) {
      const { to } = question as { to: number };
      for (let i = 1; i <= to; i++) yield { i };
      if (to > 2) throw new Fault('not_found', 'no more than two');
    });
    const parts: unknown[] = [];
    for await (const part of other.bus.ask('test.count', { to: 2 })) parts.push(part);
    expect(parts).toEqual([{ i: 1 }, { i: 2 }]);
    const failing = (async () => {
      for await (const part of other.bus.ask('test.count', { to: 3 })) parts.push(part);
    })();
    await expect(failing).rejects.toMatchObject({ kind: 'not_found', message: 'no more than two' });
    await stop();
    const nobody = (async () => {
      for await (const part of other.bus.ask('test.count', { to: 1 })) parts.push(part);
    })();
    await expect(nobody).rejects.toMatchObject({ kind: 'not_found' });
  });
});

/** Two connections to a server of their own, the first of which goes through a proxy. */
async function throughProxy(chooses?: Parameters<typeof TcpProxy.start>[1]) {
  const { path: binary } = await obtainNatsServer({});
  const server = await startNats({ dir: await temporaryFolder('bus'), binary });
  const proxy = await TcpProxy.start(Number(new URL(server.url).port), chooses);
  const broker = await connectNats({ url: `nats://127.0.0.1:${proxy.port}` });
  const other = await connectNats({ url: server.url });
  const close = async () => {
    await Promise.all([broker.close(), other.close()]);
    await proxy.stop();
    await server.stop();
  };
  return { proxy, broker, other, close };
}

it('a connection that breaks before the broker hears who serves: serving begins as soon as it is made again', async () => {
  let breaks = 0;
  const { broker, other, close } = await throughProxy((sent) =>
    sent.includes('SUB test.cut') && breaks++ < 2 ? 'break' : 'pass',
  );
  try {
    const stop = await broker.bus.serve('test.cut', async function* () {
      yield 'here';
    });
    expect(breaks).toBeGreaterThanOrEqual(2);
    expect(await askOne(other.bus, 'test.cut', {})).toBe('here');
    await stop();
  } finally {
    await close();
  }
});

it('a question that reaches a service behind its end is refused at once, as if nobody were there', async () => {
  const { proxy, broker, other, close } = await throughProxy();
  try {
    const stop = await broker.bus.serve('test.ending', async function* () {
      yield 'here';
    });
    // The broker hands the question over, and hears of the end afterwards: what it says waits on the way.
    proxy.set('silent');
    const asked = askOne(other.bus, 'test.ending', {}, { idleMs: 20_000 });
    const refused = expect(asked).rejects.toMatchObject({ kind: 'not_found', facts: { subject: 'test.ending' } });
    await expect(askOne(other.bus, 'test.nobody', {})).rejects.toMatchObject({ kind: 'not_found' });
    await stop();
    proxy.set('open');
    await refused;
  } finally {
    await close();
  }
});

it('a worker that works for long is waited for, and of one that is lost with a question in its hands whoever asked is told soon', async () => {
  const { proxy, broker, other, close } = await throughProxy();
  try {
    let taken = 0;
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    await broker.bus.serve('test.long', async function* () {
      taken++;
      await held;
      yield 'done';
    });
    const lostMs = 2_500;
    const long = askOne(other.bus, 'test.long', {}, { lostMs });
    const end = performance.now() + lostMs + 500;
    await until('it to have worked for longer than anybody may be silent', async () => performance.now() > end);
    release();
    expect(await long).toBe('done');
    await broker.bus.serve('test.lost', async function* () {
      taken++;
      await new Promise(() => {});
      yield 'never';
    });
    const lost = askOne(other.bus, 'test.lost', {}, { lostMs: 1_500 });
    const told = expect(lost).rejects.toMatchObject({ kind: 'worker_lost', facts: { subject: 'test.lost' } });
    await until('the worker to take the question', async () => taken === 2);
    proxy.set('silent');
    await told;
  } finally {
    await close();
  }
});

it('nothing piles up for whoever does not read, nobody waits for him, and what was begun is ended without him', async () => {
  const { broker, other, close } = await throughProxy();
  try {
    const part = 'x'.repeat(64 * 1024);
    let made = 0;
    let ended = 0;
    await broker.bus.serve('test.flood', async function* (question) {
      try {
        for (made = 1; made <= (question as { parts: number }).parts; made++) yield part;
      } finally {
        ended++;
      }
    });
    await broker.bus.serve('test.quick', async function* () {
      yield 'here';
    });
    const flood = (parts: number) => other.bus.ask('test.flood', { parts })[Symbol.asyncIterator]();
    const slow = flood(1_000);
    expect(await slow.next()).toEqual({ done: false, value: part });
    await until('as much to be under way as may be', async () => made >= 64);
    for (let i = 0; i < 20; i++) expect(await askOne(other.bus, 'test.quick', {})).toBe('here');
    expect(made).toBeLessThan(70);
    await slow.return?.();
    await until('the answer to be ended without him', async () => ended === 1);
    // One who left before he was told where to say so.
    const gone = flood(1_000);
    await gone.next();
    await gone.return?.();
    await until('the broker to tell of it', async () => ended === 2);
    let read = 0;
    for await (const one of other.bus.ask('test.flood', { parts: 300 })) read += (one as string).length;
    expect(read).toBe(300 * part.length);
  } finally {
    await close();
  }
});

it('a broker that comes back is waited for where the first connection has patience, and no longer than that', async () => {
  const { path: binary } = await obtainNatsServer({});
  const port = await freePort();
  const url = `nats://127.0.0.1:${port}`;
  await expect(connectNats({ url })).rejects.toMatchObject({ kind: 'broker_unreachable' });
  await expect(connectNats({ url, patienceMs: 300 })).rejects.toMatchObject({ kind: 'broker_unreachable' });
  const connecting = connectNats({ url, patienceMs: 60_000 });
  const server = await startNats({ dir: await temporaryFolder('bus'), binary, port });
  try {
    const broker = await connecting;
    expect(broker.connected()).toBe(true);
    await broker.close();
  } finally {
    await server.stop();
  }
});
