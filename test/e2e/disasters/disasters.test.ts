import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { changelog, copyFolder, Estate, expectEqual } from '../../fixtures/estate.ts';
import type { System } from '../../fixtures/system.ts';

/** Enough for every kind of change, on a busy machine too. */
const OPERATIONS = 300;
const TIMEOUT_MS = 400_000;

/** What deploy/DISASTER.md says, done to the same installation again and again. */
describe('disasters', () => {
  let estate: Estate;

  /** At work for a while, and everything is in every projection. */
  beforeAll(async () => {
    estate = await Estate.open('disasters');
    const system = await estate.system('data');
    await system.start();
    await estate.work(OPERATIONS);
    await expectEqual(system);
    expect(await estate.history()).toEqual(await changelog(system, 'shop'));
    await estate.keep();
  }, TIMEOUT_MS);
  afterAll(() => estate?.close());

  /** The installation as it was then, running. */
  async function atWork(): Promise<System> {
    await estate.back();
    const system = await estate.system('data');
    await system.start();
    return system;
  }

  /** How long from the start of the system until everything is equal, for deploy/DISASTER.md. */
  async function recovers(what: string, system: System): Promise<void> {
    const began = Date.now();
    await system.start();
    await expectEqual(system);
    console.info(`${what}: equal after ${((Date.now() - began) / 1_000).toFixed(1)} s`);
  }

  it('the NATS store is lost entirely', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    const before = await estate.history();
    await system.stop();
    await rm(join(system.data, 'nats'), { recursive: true });
    await estate.source.query('DELETE FROM film_actor WHERE film_id % 7 = 0');
    await estate.work(OPERATIONS);
    await recovers('NATS store lost', system);
    await estate.work(OPERATIONS);
    await expectEqual(system);
    // Nothing that the lake had is gone from it, and what the new changelog has came once. But for a table that is read in one piece: what
    // a reading had seen ahead of the stream was left out of the old changelog, and the new one, read again from before, may have it.
    const after = await estate.history();
    const streamed = (all: readonly string[]) => all.filter((change) => !change.includes(' r '));
    expect(new Set(streamed(after)).size).toBe(streamed(after).length);
    expect(streamed(after)).toEqual(expect.arrayContaining(streamed(before)));
    const told = new Set(streamed(after));
    const keyed = streamed(await changelog(system, 'shop')).filter((change) => !change.startsWith('public.country '));
    expect(keyed.filter((change) => !told.has(change))).toEqual([]);
  });

  it('a source is set back to yesterday', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    const yesterday = join(estate.folder, 'yesterday');
    await estate.source.backup(yesterday);
    await estate.work(OPERATIONS);
    await expectEqual(system);
    await system.stop();
    await estate.source.restore(yesterday);
    await recovers('source set back', system);
    await estate.work(OPERATIONS);
    await expectEqual(system);
    const changes = (await changelog(system, 'shop')).filter((change) => !change.includes(' r '));
    expect(new Set(changes).size).toBe(changes.length);
  });

  it('a source is set back, and has written more than before when it is captured again', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const system = await atWork();
    const yesterday = join(estate.folder, 'yesterday');
    await estate.source.backup(yesterday);
    await estate.work(100);
    await expectEqual(system);
    const [end] = await estate.source.query('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    await system.kill();
    await estate.source.restore(yesterday);
    await estate.work(OPERATIONS);
    const [now] = await estate.source.query(`SELECT pg_current_wal_insert_lsn() > '${String(end?.['lsn'])}'::pg_lsn AS beyond`);
    expect(now?.['beyond']).toBe(true);
    await recovers('source set back, grown since', system);
    await estate.work(OPERATIONS);
    await expectEqual(system);
  });

  it('the ODS is set back to yesterday', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    const yesterday = join(estate.folder, 'yesterday');
    await estate.ods.backup(yesterday);
    await estate.work(OPERATIONS);
    await expectEqual(system);
    await estate.ods.restore(yesterday);
    await estate.work(OPERATIONS);
    const began = Date.now();
    await expectEqual(system);
    console.info(`ODS set back: equal after ${((Date.now() - began) / 1_000).toFixed(1)} s`);
  });

  it('the lake is lost', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    await system.stop();
    await rm(join(estate.folder, 'lake'), { recursive: true });
    await estate.work(OPERATIONS);
    await recovers('lake lost', system);
    expect(await estate.history()).toEqual(await changelog(system, 'shop'));
  });

  it('everything moves to new machines: the data folder is copied', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    await system.stop();
    await copyFolder(system.data, join(estate.folder, 'elsewhere'));
    await rm(system.data, { recursive: true });
    await estate.work(OPERATIONS);
    const moved = await estate.system('elsewhere');
    await recovers('moved with the data folder', moved);
    expect(await estate.history()).toEqual(await changelog(moved, 'shop'));
  });

  it('everything moves to new machines: only the NATS store and the config are copied', { timeout: TIMEOUT_MS }, async () => {
    const system = await atWork();
    await system.stop();
    const moved = await estate.system('elsewhere');
    await copyFolder(join(system.data, 'nats'), join(moved.data, 'nats'));
    await rm(system.data, { recursive: true });
    await rm(join(estate.folder, 'lake'), { recursive: true });
    await estate.work(OPERATIONS);
    await recovers('moved with the NATS store alone', moved);
    expect(await estate.history()).toEqual(await changelog(moved, 'shop'));
  });
});
