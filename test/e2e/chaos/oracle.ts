import { Client } from 'pg';
import { expect } from 'vitest';
import { checkLedger } from '../../fixtures/ledger.ts';
import { lastJson, tributary, tributaryLines } from '../../fixtures/system.ts';
import { SOURCES, type World } from './world.ts';

interface Verified {
  readonly equal: boolean;
  readonly tables: readonly {
    readonly table: string;
    readonly projection: string;
    readonly rows: number;
    readonly equal: boolean;
  }[];
}

/** Number of rows and a hash of all of them, per table, asked in plain SQL. */
async function contents(url: string, schema: string): Promise<Record<string, string>> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(`SET timezone = 'UTC'`);
    const { rows } = await client.query<{ name: string }>(
      `SELECT relname AS name FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1`,
      [schema],
    );
    const tables: Record<string, string> = {};
    for (const { name } of rows) {
      const { rows: found } = await client.query<{ content: string }>(
        `SELECT count(*) || ' rows ' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) AS content FROM "${schema}"."${name}" t`,
      );
      tables[name] = (found[0] as { content: string }).content;
    }
    return tables;
  } finally {
    await client.end();
  }
}

/** Every projection equals its source, as `verify` says and as plain SQL says; every change stands in its changelog exactly once. */
export async function expectTruth(world: World): Promise<{ tables: number; transactions: number }> {
  const nats = ['--nats', world.nats.url, '--json'];
  const caught = await tributary(['status', '--wait', 'caught-up', '--timeout', '180s', ...nats], { timeoutMs: 240_000 });
  expect(caught.code, `catching up: ${caught.stderr}`).toBe(0);
  const verified = await tributary(['verify', '--timeout', '180s', ...nats], { timeoutMs: 600_000 });
  const { equal, tables } = lastJson<Verified>(verified);
  expect(tables.filter((one) => !one.equal)).toEqual([]);
  expect(equal).toBe(true);
  const projections = new Set(tables.map((one) => one.projection));
  expect([...projections].toSorted()).toEqual(['lake', 'ods', 'query']);
  let transactions = 0;
  for (const source of SOURCES) {
    const wanted = await contents(world.sources.url(source), 'public');
    expect(Object.keys(wanted).length).toBeGreaterThan(7);
    expect(await contents(world.ods.url('ods'), source), `ODS of ${source} in plain SQL`).toEqual(wanted);
    transactions += await expectExactlyOnce(world, source);
  }
  return { tables: tables.length, transactions };
}

async function expectExactlyOnce(world: World, source: string): Promise<number> {
  const client = new Client({ connectionString: world.sources.url(source) });
  await client.connect();
  try {
    const changes = tributaryLines(['tail', source, '--from', 'start', '--until-caught-up', '--nats', world.nats.url, '--json']);
    await checkLedger({ changes, client, fromTheStart: true });
    const { rows } = await client.query<{ n: number }>('SELECT count(*)::int AS n FROM public.ledger');
    return rows[0]?.n ?? 0;
  } finally {
    await client.end();
  }
}
