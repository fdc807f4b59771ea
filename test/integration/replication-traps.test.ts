import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import type { Lsn } from '@tributary/core';
import { ReplicationReader, Session } from '@tributary/postgres';
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest';
import { until } from '../fixtures/wait.ts';

/** The four ways in which pg-logical-replication 2.5.0 loses data, each shown not to happen to our reader. */

let postgres: PostgresServer;
let session: Session;
let slot = '';
let slots = 0;

interface Commit {
  readonly lsn: Lsn;
  readonly endLsn: Lsn;
}

beforeAll(async () => {
  postgres = await startPostgres({ dir: join(await temporaryFolder('traps'), 'postgres'), databases: ['shop'] });
  session = await Session.open(connection(), { name: 'test' });
  await session.run('CREATE TABLE public.t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE public.t');
});
afterAll(async () => {
  await session?.close();
  await postgres?.stop();
});
beforeEach(async () => {
  slot = `trap_${++slots}`;
  await session.run(`TRUNCATE public.t`);
  await session.rows(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [slot]);
});

const connection = () => ({ host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'shop' });
const lsnAt = (bytes: Buffer, at: number) => (BigInt(bytes.readUInt32BE(at)) << 32n) | BigInt(bytes.readUInt32BE(at + 4));

/** A reader, and the commits it has received. */
function open(onMessage: (bytes: Buffer) => void = () => {}) {
  const commits: Commit[] = [];
  const reader = new ReplicationReader({
    connection: connection(),
    slot,
    publications: ['p'],
    from: 0n,
    message: (whole, start, end) => {
      const bytes = whole.subarray(start, end);
      if (bytes[0] === 0x43) commits.push({ lsn: lsnAt(bytes, 2), endLsn: lsnAt(bytes, 10) });
      onMessage(bytes);
    },
    keepalive: () => {},
  });
  const running = reader.run(() => {}).catch((error: unknown) => error);
  return {
    reader,
    commits,
    received: (count: number) => until(`${count} commits`, async () => commits.length >= count),
    async close() {
      await reader.stop();
      await running;
      await until('the slot to be free', async () => {
        const { active } = await session.row<{ active: boolean }>(
          'SELECT active FROM pg_replication_slots WHERE slot_name = $1',
          [slot],
        );
        return !active;
      });
    },
  };
}

async function confirmed(): Promise<string> {
  const row = await session.row<{ lsn: string }>(
    'SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = $1',
    [slot],
  );
  return row.lsn;
}

it('trap 1: nothing is confirmed because it was received', async () => {
  const before = await confirmed();
  const one = open();
  for (let i = 1; i <= 5; i++) await session.run(`INSERT INTO public.t VALUES (${i})`);
  await one.received(5);
  // Longer than the library's timer, which confirms every second what was last received.
  const end = Date.now() + 2_500;
  await until('2.5 s of silence', async () => Date.now() > end);
  expect(await confirmed()).toBe(before);
  await one.close();
  expect(await confirmed()).toBe(before);
});

it('trap 2: confirming one transaction does not skip the one right behind it', async () => {
  await session.run('INSERT INTO public.t VALUES (1)');
  await session.run('INSERT INTO public.t VALUES (2)');
  const one = open();
  await one.received(2);
  const [first, second] = one.commits as [Commit, Commit];
  await one.reader.confirm(first.endLsn);
  await until('the confirmation to arrive', async () => {
    const { reached } = await session.row<{ reached: boolean }>(
      'SELECT confirmed_flush_lsn >= $2::pg_lsn AS reached FROM pg_replication_slots WHERE slot_name = $1',
      [slot, `${(first.endLsn >> 32n).toString(16)}/${(first.endLsn & 0xffffffffn).toString(16)}`],
    );
    return reached;
  });
  await one.close();
  const again = open();
  await again.received(1);
  expect(again.commits[0]?.lsn).toBe(second.lsn);
  await again.close();
});

it('trap 3: what a handler failed on comes again', async () => {
  let failed = 0;
  const one = open((bytes) => {
    if (bytes[0] === 0x49) failed++;
  });
  await session.run('INSERT INTO public.t VALUES (1)');
  await until('the row', async () => failed === 1);
  // The handler reports failure by not confirming; the reader has no way to confirm by itself.
  await one.close();
  const again = open();
  await again.received(1);
  expect(again.commits).toHaveLength(1);
  await again.close();
});

it('trap 4: a new connection goes on from what was confirmed, not from what was received', async () => {
  for (let i = 1; i <= 3; i++) await session.run(`INSERT INTO public.t VALUES (${i})`);
  const one = open();
  await one.received(3);
  const lsns = one.commits.map((commit) => commit.lsn);
  await one.close();
  const again = open();
  await again.received(3);
  expect(again.commits.map((commit) => commit.lsn)).toEqual(lsns);
  await again.close();
});
