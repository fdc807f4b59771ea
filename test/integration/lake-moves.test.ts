import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { obtainNatsServer, startNats } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { changelog, Estate, expectEqual } from '../fixtures/estate.ts';

describe('a lake whose worker loses its state, or is replaced by another one', () => {
  let estate: Estate;
  let nats: Awaited<ReturnType<typeof startNats>>;

  beforeAll(async () => {
    estate = await Estate.open('lake-moves');
    const { path } = await obtainNatsServer({});
    nats = await startNats({ dir: join(estate.folder, 'nats'), binary: path });
  });
  afterAll(async () => {
    await estate?.close();
    await nats?.stop();
  });

  it('goes on from the last compaction, equal to the source, with every change in its history once', async () => {
    const a = await estate.system('a', ['--nats', nats.url]);
    await a.start();
    await estate.work(500);
    const compacted = await a.run(['compact']);
    expect(compacted.code, compacted.stderr).toBe(0);
    let working = estate.work(1_500);
    await a.stop();
    await rm(join(a.data, 'lake-state'), { recursive: true });
    await a.start();
    await working;
    await expectEqual(a);
    expect(await estate.history()).toEqual(await changelog(a, 'shop'));

    working = estate.work(3_000);
    const b = await estate.system('b', ['--nats', nats.url]);
    for (const [dies, follows] of [
      [a, b],
      [b, a],
      [a, b],
    ] as const) {
      await dies.kill();
      await follows.start();
      const done = await follows.run(['compact']);
      expect(done.code, done.stderr).toBe(0);
    }
    await working;
    await expectEqual(b);
    expect(await estate.history()).toEqual(await changelog(b, 'shop'));
    expect(b.stderr).not.toContain('chain_broken');
  }, 400_000);
});
