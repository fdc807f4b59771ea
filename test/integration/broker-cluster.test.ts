import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type BatchDraft,
  type Broker,
  type ChangelogWriter,
  connectNats,
  type DeadLetter,
  type LastBatch,
  SectionDraft,
} from '@tributary/changelog';
import { askOne, Fault, Op, ORIGIN, type Position, type StoredBatch, type TableSchema } from '@tributary/core';
import { temporaryFolder } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NatsCluster } from '../fixtures/nats-cluster.ts';
import { TcpProxy } from '../fixtures/tcp-proxy.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';
import { Warden } from '../fixtures/warden.ts';
import { Worker } from '../fixtures/worker.ts';

const table: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [
    { name: 'id', type: { oid: 20, schema: 'pg_catalog', name: 'int8', kind: 'base' }, typmod: -1, sqlType: 'bigint', key: 1 },
  ],
};

/** Transaction number `n`, whose only row has the id `n`. */
function transaction(n: number): BatchDraft {
  const section = new SectionDraft(table);
  section.cells[0]?.push(String(n));
  section.row(Op.created, 0, 1);
  const lsn = BigInt(n) * 100n;
  return {
    header: {
      source: 's',
      epoch: 'e',
      kind: 'stream',
      position: { lsn, ordinal: 1 },
      restart: lsn + 10n,
      watermark: n,
      continues: false,
      more: false,
      transactions: [{ lsn, endLsn: lsn + 10n, xid: n, committedAt: n }],
      mark: null,
      state: null,
    },
    sections: [section],
  };
}

/** A supervisor starts nothing again at once. */
const again = () => new Promise((resolve) => setTimeout(resolve, 100));

/** Writes as a source does: after a fault a new writer goes on after what the changelog holds. */
async function write(broker: Broker, source: string, upTo: () => number): Promise<number> {
  let writer: ChangelogWriter | null = null;
  let faults = 0;
  let next = 1;
  while (next <= upTo()) {
    try {
      writer ??= await broker.changelogs.write(source, { replicas: 3, maxAgeMs: 0, maxBytes: 0 });
      next = Number((writer.last?.header.position.lsn ?? 0n) / 100n) + 1;
      for (; next <= upTo(); next++) await writer.append(transaction(next));
    } catch (error) {
      if (!(error instanceof Fault) || error.reaction !== 'restart') throw error;
      faults++;
      await writer?.close();
      writer = null;
      await again();
    }
  }
  await writer?.close();
  return faults;
}

/** Reads as a projection does, until `done` says so: after a fault it goes on from where it stands. */
async function read(broker: Broker, source: string, ids: string[], done: () => boolean): Promise<void> {
  let after: Position = ORIGIN;
  while (!done()) {
    try {
      for await (const batch of broker.changelogs.read(source, { after, signal: new AbortController().signal })) {
        for (const section of batch.sections) ids.push(...((section.columns[0]?.values() ?? []) as string[]));
        after = { seq: batch.seq, ...batch.header.position, epoch: batch.header.epoch };
        if (done()) return;
      }
    } catch (error) {
      if (!(error instanceof Fault) || error.reaction !== 'restart') throw error;
      await again();
    }
  }
}

describe('a changelog on three servers', () => {
  let folder: string;
  let nats: NatsCluster;
  beforeAll(async () => {
    folder = await temporaryFolder('broker-cluster');
    nats = await NatsCluster.start(folder);
  });
  afterAll(async () => {
    await nats?.stop();
    await rm(folder, { recursive: true });
  });

  it('outlives the crash of its leader: one writer and one reader go on, in order, nothing lost or twice', async () => {
    const broker = await connectNats({ url: nats.url });
    const reading = await connectNats({ url: nats.url });
    const ids: string[] = [];
    let last = Number.MAX_SAFE_INTEGER;
    try {
      const written = write(broker, 'crash', () => last);
      const done = read(reading, 'crash', ids, () => ids.length >= last);
      for (let crash = 1; crash <= 2; crash++) {
        const before = await until('more transactions', async () => ids.length > crash * 100 && ids.length);
        const leader = await until('a leader', () =>
          nats.leaderOf('CHANGELOG_crash').then((index) => index !== null && { index }),
        );
        await nats.kill(leader.index);
        await until('writer and reader to go on without it', async () => ids.length > before + 100, 60_000);
        await nats.restart(leader.index);
      }
      last = ids.length + 500;
      expect(await written).toBeGreaterThan(0);
      await done;
      expect(ids).toEqual(Array.from({ length: last }, (_, i) => String(i + 1)));
    } finally {
      // Also where it failed, both come to their end.
      last = 0;
      await broker.close();
      await reading.close();
    }
  });

  it('keeps dead letters while it elects who leads them', async () => {
    const broker = await connectNats({ url: nats.url });
    try {
      const { changelogs } = broker;
      await write(broker, 'letters', () => 3);
      const batches: StoredBatch[] = [];
      for await (const one of changelogs.read('letters', { after: ORIGIN, signal: new AbortController().signal })) {
        if (batches.push(one) === 3) break;
      }
      const [first, ...others] = batches as [StoredBatch, ...StoredBatch[]];
      const letter = { projection: 'ods/letters', table: 'public.t', reason: null, at: 1_000 };
      await changelogs.deadLetters.put(first, letter);
      const crash = async () => {
        const leader = await nats.leaderOfWhole('DEADLETTERS');
        await nats.kill(leader);
        return () => nats.restart(leader);
      };
      for (const [i, batch] of others.entries()) {
        const mend = await crash();
        await changelogs.deadLetters.put(batch, letter);
        expect(await changelogs.deadLetters.list('ods/letters')).toHaveLength(i + 2);
        await mend();
      }
      const mend = await crash();
      const kept = await changelogs.deadLetters.list('ods/letters');
      expect((await changelogs.deadLetters.read(kept[0] as DeadLetter)).seq).toBe(first.seq);
      await changelogs.deadLetters.drop('ods/letters', 'public.t');
      expect(await changelogs.deadLetters.list('ods/letters')).toEqual([]);
      await mend();
    } finally {
      await broker.close();
    }
  }, 180_000);

  it('is written on through another server when the way to one is cut, also without a word', async () => {
    const proxies = await Promise.all(nats.ports.map((port) => TcpProxy.start(port)));
    const broker = await connectNats({ url: proxies.map(({ port }) => `nats://127.0.0.1:${port}`).join(',') });
    const reading = await connectNats({ url: nats.url });
    const ids: string[] = [];
    let last = Number.MAX_SAFE_INTEGER;
    try {
      const written = write(broker, 'cut', () => last);
      const done = read(reading, 'cut', ids, () => ids.length >= last);
      for (const state of ['refused', 'silent'] as const) {
        const before = await until('more transactions', async () => ids.length > 100 && ids.length);
        const used = proxies.filter((proxy) => proxy.connections > 0);
        expect(used).toHaveLength(1);
        used[0]?.set(state);
        // What was on its way already is not counted.
        const first = () => until('the writer to go on elsewhere', async () => ids.length > before + 5, 60_000);
        await timed(`a writer goes on when the way to its server is ${state}`, first);
        await until('the writer to stay there', async () => ids.length > before + 100, 60_000);
        used[0]?.set('open');
      }
      last = ids.length + 100;
      expect(await written).toBeGreaterThan(0);
      await done;
      expect(ids).toEqual(Array.from({ length: last }, (_, i) => String(i + 1)));
    } finally {
      last = 0;
      await broker.close();
      await reading.close();
      await Promise.all(proxies.map((proxy) => proxy.stop()));
    }
  });

  it('is looked for on other servers when its end is lost, and all copies are made anew of the one that has it', async () => {
    const broker = await connectNats({ url: nats.url });
    const ids: string[] = [];
    try {
      await write(broker, 'copies', () => 50);
      await until('every copy to be whole', () => nats.whole());
      // Stands for a copy that lacks the end: the first two that are asked.
      let looks = 0;
      const holds = (last: LastBatch | null) => last?.seq === 50 && ++looks > 2;
      expect(await broker.changelogs.reconcileCopies('copies', holds)).toBe(true);
      expect(looks).toBe(3);
      await write(broker, 'copies', () => 60);
      await until('every copy to be whole again', () => nats.whole());
      expect(await nats.copiesOf('CHANGELOG_copies')).toBe(3);
      await read(broker, 'copies', ids, () => ids.length >= 60);
      expect(ids).toEqual(Array.from({ length: 60 }, (_, i) => String(i + 1)));
    } finally {
      await broker.close();
    }
  });

  it('is served through another server by whoever begins to serve while the connection is away', async () => {
    const proxies = await Promise.all(nats.ports.map((port) => TcpProxy.start(port)));
    const broker = await connectNats({ url: proxies.map(({ port }) => `nats://127.0.0.1:${port}`).join(',') });
    const other = await connectNats({ url: nats.url });
    try {
      for (const proxy of proxies) proxy.set('refused');
      const serving = broker.bus.serve('test.away', async function* () {
        yield 'here';
      });
      await until('the connection to break', async () => proxies.every((proxy) => proxy.connections === 0));
      for (const proxy of proxies) proxy.set('open');
      const unserve = await serving;
      // Another server hears of it a little later.
      const answered = () =>
        askOne(other.bus, 'test.away', {}).catch((error: Fault) => (error.kind === 'not_found' ? null : error));
      expect(await until('an answer through another server', answered)).toBe('here');
      await unserve();
    } finally {
      await broker.close();
      await other.close();
      await Promise.all(proxies.map((proxy) => proxy.stop()));
    }
  });

  it('is waited for by a worker that starts while two of the three servers are away', async () => {
    const folder = await temporaryFolder('broker-cluster-worker');
    const config = join(folder, 'tributary.yaml');
    const logFile = join(folder, 'worker.log');
    await writeFile(
      config,
      'kind: Cluster\nnats: { replicas: 3 }\n---\nkind: Source\nname: shop\npostgres: postgres://me@127.0.0.1:1/shop\n',
    );
    const args = ['console', '-f', config, '--data', folder, '--nats', nats.url, '--port', '0'];
    const warden = new Warden(folder);
    const worker = new Worker({ name: 'worker', args, folder, logFile, warden });
    try {
      await nats.kill(0);
      await nats.kill(1);
      const started = worker.start();
      started.catch(() => {});
      await until('the worker to say that it waits', async () => (await readFile(logFile, 'utf8')).includes('waiting for it'));
      await nats.restart(0);
      await nats.restart(1);
      await started;
      await worker.stop();
    } finally {
      await worker.kill();
      await warden.close();
    }
  });

  it('lets a worker end that is told to while it dials a server which does not answer', async () => {
    const folder = await temporaryFolder('broker-cluster-worker');
    const config = join(folder, 'tributary.yaml');
    await writeFile(config, 'kind: Source\nname: shop\npostgres: postgres://me@127.0.0.1:1/shop\n');
    const proxy = await TcpProxy.start(nats.ports[0] as number);
    const url = `nats://127.0.0.1:${proxy.port}`;
    const args = ['console', '-f', config, '--data', folder, '--nats', url, '--port', '0'];
    const warden = new Warden(folder);
    const worker = new Worker({ name: 'worker', args, folder, logFile: join(folder, 'worker.log'), warden });
    try {
      await worker.start();
      proxy.set('silent');
      await until('the worker to dial again', async () => proxy.stranded > 0);
      await worker.stop();
    } finally {
      await worker.kill();
      await warden.close();
      await proxy.stop();
    }
  });
});
