import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { type Cell, formatLsn, Op, ORIGIN, type StoredBatch, WHOLE } from '@tributary/core';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { OdsProjection } from '@tributary/sink';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Change, text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';

const KEYED = { schema: 'public', table: 'k', identity: 'default', columns: [text('id', 1), text('v')] } as const;
const KEYLESS = { schema: 'public', table: 'f', identity: 'full', columns: [text('a')] } as const;

let postgres: Awaited<ReturnType<typeof startPostgres>>;
let client: Client;
let blocker: Client;

beforeAll(async () => {
  postgres = await startPostgres({ dir: join(await temporaryFolder('overlap'), 'postgres'), databases: ['ods'] });
  const connected = async () => {
    const one = new Client({ connectionString: postgres.url('ods') });
    await one.connect();
    return one;
  };
  [client, blocker] = [await connected(), await connected()];
});
afterAll(async () => {
  await client.end();
  await blocker.end();
  await postgres.stop();
});

const put = (schema: Change['schema'], ...cells: Cell[]): Change => ({ schema, op: Op.created, cells });

/** One group for each transaction. */
async function groupsOf(transactions: readonly (readonly Change[])[]) {
  const { changelogs } = memoryBroker();
  const written = new Written(await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 's');
  for (const [i, changes] of transactions.entries()) await written.stream([{ lsn: BigInt(i + 1) * 16n, changes }]);
  const batches: StoredBatch[] = [];
  for await (const batch of changelogs.read('s', { after: ORIGIN, signal: new AbortController().signal, wants: () => true }))
    if (batches.push(batch) === transactions.length) break;
  const groups = batches.map((batch) => {
    const { seq, header } = batch;
    const after = { seq, ...header.position, epoch: header.epoch };
    return { batches: [batch], partial: false, after, watermark: header.watermark };
  });
  return { groups, changelogs };
}

async function opened(changelogs: ReturnType<typeof memoryBroker>['changelogs']) {
  await client.query('DROP SCHEMA IF EXISTS s, tributary CASCADE');
  const config = {
    type: 'ods',
    name: 'sink',
    from: ['*'],
    postgres: { host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'ods' },
    onError: 'halt',
    partitions: 1,
    existing: 'refuse',
    foreignKeys: 'check',
    history: false,
    softDelete: false,
  } as const;
  const bus = { ask: () => [] as never };
  const cut = new AbortController().signal;
  return OdsProjection.open({
    config,
    source: 's',
    sourceConnection: null,
    bus,
    part: WHOLE,
    changelogs,
    overlapBytes: 1,
    cut,
  });
}

const stored = async () => {
  const { rows } = await client.query<{ all: string }>(
    `SELECT (SELECT string_agg(id || v, ' ' ORDER BY id) FROM s.k) || '; ' || coalesce((SELECT string_agg(a, ' ' ORDER BY a) FROM s.f), '')
       || '; ' || (SELECT seq FROM tributary.position) AS all`,
  );
  return rows[0]?.all;
};

it('folds a group while the one before it is written, and writes each in a transaction of its own', async () => {
  const { groups, changelogs } = await groupsOf([
    [put(KEYED, '1', 'a'), put(KEYLESS, 'x')],
    [put(KEYED, '2', 'b')],
    [put(KEYED, '3', 'c'), put(KEYLESS, 'y')],
  ]);
  const [first, second, third] = groups as [(typeof groups)[0], (typeof groups)[0], (typeof groups)[0]];
  const projection = await opened(changelogs);
  await projection.position();
  expect(await projection.apply(first)).toBeNull();
  await blocker.query('BEGIN; LOCK TABLE s.f IN EXCLUSIVE MODE');
  const accepted = await projection.apply(second);
  // Folded at once, while not even the beginning of the second is answered.
  const behind = projection.apply(third);
  await accepted?.settled;
  const last = await behind;
  await until('the third group to wait for the lock', async () => {
    const { rowCount } = await client.query(`SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'`);
    return rowCount === 1;
  });
  expect(await stored()).toBe('1a 2b; x; 2');
  await blocker.query('COMMIT');
  await last?.settled;
  expect(await stored()).toBe('1a 2b 3c; x y; 3');
  await projection.close();
});

it('writes new rows in bulk, with what becomes of them in the same group, also over a newer state', async () => {
  const ids = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => String(from + i));
  const update = (id: string, v: Cell): Change => ({ schema: KEYED, op: Op.updated, cells: [id, v] });
  const { groups, changelogs } = await groupsOf([
    [put(KEYED, '0', 'first'), put(KEYLESS, 'x')],
    ids(1, 301).map((id) => put(KEYED, id, 'new')),
    ids(301, 601).map((id) => put(KEYED, id, 'new')),
    ids(1, 101).map((id) => update(id, id === '7' ? undefined : 'changed')),
    ids(101, 151).map((id) => ({ schema: KEYED, op: Op.deleted, cells: [id, undefined] })),
    [{ schema: KEYED, op: Op.updated, cells: ['1000', undefined], old: ['200', undefined] }],
    ids(601, 901).map((id) => put(KEYED, id, 'newer')),
  ]);
  const expected = [
    '0first',
    ...ids(1, 101).map((id) => `${id}${id === '7' ? 'new' : 'changed'}`),
    ...ids(151, 601).map((id) => (id === '200' ? '1000new' : `${id}new`)),
    ...ids(601, 901).map((id) => `${id}newer`),
  ].toSorted();
  const [first, ...rest] = groups as [(typeof groups)[0], ...typeof groups];
  for (const moved of [false, true]) {
    const chosen = moved ? rest : rest.filter((_, i) => i !== 4);
    const last = chosen.at(-1) as (typeof groups)[0];
    const group = { ...last, batches: chosen.flatMap(({ batches }) => batches) };
    const projection = await opened(changelogs);
    await projection.position();
    await projection.apply(first);
    for (const again of [false, true]) {
      if (again) {
        const { seq, lsn, ordinal } = first.after;
        await client.query('UPDATE tributary.position SET seq = $1, lsn = $2, ordinal = $3', [seq, formatLsn(lsn), ordinal]);
        await client.query(`DELETE FROM s.k WHERE id IN ('50', '400'); UPDATE s.k SET v = 'later' WHERE id IN ('60', '450')`);
        expect((await projection.position()).seq).toBe(1);
      }
      await (await projection.apply(group))?.settled;
      const { rows } = await client.query<{ row: string }>('SELECT id || v AS row FROM s.k');
      const found = rows.map(({ row }) => row).toSorted();
      expect(found).toEqual(moved ? expected : expected.map((row) => (row === '1000new' ? '200new' : row)).toSorted());
    }
    await projection.close();
  }
});

it('writes nothing behind a group that failed before its position is read again', async () => {
  const { groups, changelogs } = await groupsOf([
    [put(KEYED, '1', 'a'), put(KEYLESS, 'x')],
    [put(KEYED, '2', 'refused'), put(KEYLESS, 'y')],
    [put(KEYED, '3', 'c'), put(KEYLESS, 'z')],
    [put(KEYED, '4', 'd')],
  ]);
  const projection = await opened(changelogs);
  await projection.position();
  await projection.apply(groups[0] as (typeof groups)[0]);
  await client.query(`ALTER TABLE s.k ADD CONSTRAINT mine CHECK (v <> 'refused')`);
  const accepted = await projection.apply(groups[1] as (typeof groups)[0]);
  const settled = expect(accepted?.settled).rejects.toThrow('mine');
  await expect(projection.apply(groups[2] as (typeof groups)[0])).rejects.toThrow('mine');
  await settled;
  await expect(projection.apply(groups[3] as (typeof groups)[0])).rejects.toThrow('mine');
  expect(await stored()).toBe('1a; x; 1');
  await client.query('ALTER TABLE s.k DROP CONSTRAINT mine');
  expect((await projection.position()).seq).toBe(1);
  for (const group of groups.slice(1)) await (await projection.apply(group))?.settled;
  expect(await stored()).toBe('1a 2refused 3c 4d; x y z; 4');
  await projection.close();
});
