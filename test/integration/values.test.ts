import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pgBinaries, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean; rows: number }[];
}

const TYPES = `
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE other.pair AS (a int, "B c" text);
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE DOMAIN amount AS numeric(12,4);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE everything (id int PRIMARY KEY, m mood, ms mood[], p other.pair, e email, a amount, s span, r int4range, n numeric, n2 numeric(8,3),
  f float8, f4 float4, d date, t time, tz timetz, ts timestamp, tstz timestamptz, i interval, b bytea, j json, jb jsonb, u uuid, x xml,
  c char(5), v varchar(20), texts text[], ints int[], bits bit(5), vb varbit, ip inet, mac macaddr, pt point, money money, "Odd ""name" text, tsv tsvector);
CREATE TABLE other.plain (id int PRIMARY KEY, v text);
CREATE TABLE "Mixed Case" ("Key" text, "key2" int, v text, PRIMARY KEY ("key2", "Key"));
CREATE TABLE full_identity (x int, y text, big text); ALTER TABLE full_identity REPLICA IDENTITY FULL;
CREATE TABLE no_identity (x int, y text);
CREATE TABLE indexed (x int NOT NULL, y text); CREATE UNIQUE INDEX indexed_x ON indexed (x); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_x;
CREATE TABLE parted (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE toasted (id int PRIMARY KEY, n int, big text); ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE late_key (a int PRIMARY KEY, b int); INSERT INTO late_key VALUES (1, 1), (2, 2);
CREATE TABLE generated (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);`;

const NASTY = `
INSERT INTO everything (id, m, ms, p, e, a, s, r, n, n2, f, f4, d, t, tz, ts, tstz, i, b, j, jb, u, c, v, texts, ints, bits, vb, ip, mac, pt, money, "Odd ""name", tsv) VALUES
 (1, 'ok', '{sad,NULL}', '(1,"a ""q"", b")', 'a@b', 1.5, '[1,2.5)', '[1,5)', 'NaN', -12345.678, 'Infinity', 'NaN', 'infinity', '24:00', '23:59:59+02', '4713-01-01 BC', '-infinity', '-1 mon +2 days 03:04:05.678',
  '\\xdeadbeef00', '{"b" : 1,  "a":[]}', '{"b": 1, "a": null}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'ab', 'é"''\\', ARRAY['a,b', '"q"', NULL, '', E'line\\nend', '{}'], '{{1,2},{3,NULL}}', B'10101', B'1', '10.0.0.1/8', '08:00:2b:01:02:03', '(1,2)', '12.34', E'tab\\there', 'a b'),
 (2, NULL, NULL, NULL, NULL, NULL, NULL, 'empty', 123456789012345678901234567890.123456789, 0, '-0', 1e-30, '0044-03-15 BC', '00:00', NULL, 'infinity', '2026-03-29 01:30:00+00', '0', '', 'null', '"text"', NULL, '', '', '{}', '{}', B'00000', B'', '::1', NULL, NULL, NULL, E'\\x1f\\x1e\\x1d\\x1c', ''),
 (3, 'sad', '{}', '(,)', 'c@d', -0.0001, '(,)', '(,)', 'Infinity', NULL, 1e308, 3.4e38, '2026-11-24', '12:00:00.000001', '00:00:00+00', '2026-11-24 00:00:00.000001', '0001-01-01 00:00:00+00', '178000000 years', '\\x', '[]', '[]', NULL, 'x', 'y', ARRAY[E'\\x1f'], '[2:3]={7,8}', B'11111', B'111', '10.0.0.0/24', NULL, NULL, '-1.00', E'\\x1e', 'x:1');`;

const CHANGES = `
UPDATE everything SET id = 10 WHERE id = 1; UPDATE everything SET n = 'NaN', texts = NULL WHERE id = 2; DELETE FROM everything WHERE id = 3;
INSERT INTO toasted SELECT i, i, repeat(chr(65 + i), 5000) FROM generate_series(1, 20) i; UPDATE toasted SET n = n + 1; UPDATE toasted SET id = id + 100 WHERE id < 5; DELETE FROM toasted WHERE id = 6;
INSERT INTO full_identity VALUES (1, 'a', repeat('z', 5000)), (1, 'a', repeat('z', 5000)), (2, NULL, NULL); UPDATE full_identity SET y = 'b' WHERE ctid = (SELECT min(ctid) FROM full_identity); DELETE FROM full_identity WHERE x = 2;
INSERT INTO no_identity VALUES (1, 'a'), (1, 'a'), (2, E'q"\\n'); UPDATE no_identity SET y = 'changed' WHERE x = 2; DELETE FROM no_identity WHERE ctid = (SELECT min(ctid) FROM no_identity);
INSERT INTO indexed VALUES (1, 'a'), (2, 'b'); UPDATE indexed SET x = 3 WHERE x = 1; DELETE FROM indexed WHERE x = 2;
INSERT INTO parted VALUES (1, '2026-01-05', 'a'), (2, '2026-02-05', 'b'), (3, '2026-02-06', 'c'); UPDATE parted SET at = '2026-02-07' WHERE id = 1; DELETE FROM parted WHERE id = 2;
INSERT INTO "Mixed Case" VALUES ('k', 1, 'v'), ('l', 2, NULL); UPDATE "Mixed Case" SET "Key" = 'l', "key2" = 1 WHERE "Key" = 'k';
INSERT INTO generated (id, a) VALUES (1, 5), (2, NULL); UPDATE generated SET a = 7 WHERE id = 2;
INSERT INTO other.plain VALUES (1, 'x'); BEGIN; UPDATE other.plain SET id = 2; INSERT INTO other.plain VALUES (1, 'again'); COMMIT;`;

const DDL = `
ALTER TYPE mood ADD VALUE 'great'; INSERT INTO everything (id, m) VALUES (50, 'great');
ALTER TABLE other.plain ADD COLUMN added int DEFAULT 5; INSERT INTO other.plain VALUES (9, 'nine', 9);
ALTER TABLE toasted DROP COLUMN n; UPDATE toasted SET big = 'short' WHERE id = 7;
ALTER TABLE "Mixed Case" ALTER COLUMN "key2" TYPE bigint; INSERT INTO "Mixed Case" VALUES ('m', 3000000000, 'big');
ALTER TABLE late_key DROP CONSTRAINT late_key_pkey; ALTER TABLE late_key ADD PRIMARY KEY (b); INSERT INTO late_key VALUES (1, 3);
ALTER TABLE indexed RENAME COLUMN y TO z; INSERT INTO indexed VALUES (8, 'eight');
CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM ('2026-03-01') TO ('2026-04-01'); INSERT INTO parted VALUES (7, '2026-03-02', 'new leaf');
CREATE TABLE loose (LIKE parted); INSERT INTO loose VALUES (70, '2026-05-02', 'attached'); ALTER TABLE loose ALTER id SET NOT NULL; ALTER TABLE parted ATTACH PARTITION loose FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
TRUNCATE parted_1, full_identity; INSERT INTO full_identity VALUES (5, 'after', NULL);
ALTER TABLE no_identity ADD PRIMARY KEY (x);
CREATE TABLE late (id int PRIMARY KEY, v text); INSERT INTO late VALUES (1, 'one'); UPDATE late SET v = 'uno';`;

describe.each([
  ['embedded (18)', null],
  ['15', 15],
] as const)('every type and shape on PostgreSQL %s', (_name, major) => {
  const binDir = major === null ? pgBinaries() : pgBinaries(major);
  if (!binDir) {
    it.skip(`PostgreSQL ${major} is not installed on this machine`, () => {});
    return;
  }
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let client: Client;

  beforeAll(async () => {
    const folder = await temporaryFolder('values');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'], binDir });
    client = new Client({ connectionString: postgres.url('shop') });
    client.on('error', () => {});
    await client.connect();
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\ntables: ["*.*"]\n---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n---\nkind: Sink\nname: lake\ntype: lake\n`,
    );
    system = new System(config, join(folder, 'data'));
  });
  afterAll(async () => {
    await system?.stop();
    await client?.end();
    await postgres?.stop();
  });

  async function expectEqual(): Promise<Verified> {
    const outcome = await system.run(['verify', '--timeout', '60s'], { timeoutMs: 100_000 });
    const verified = lastJson<Verified>(outcome);
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-3_000),
    ).toEqual([]);
    expect(verified.equal).toBe(true);
    return verified;
  }

  it('arrives exactly by snapshot, by stream, and through changes of shape', async () => {
    await client.query(TYPES);
    await client.query(NASTY);
    await system.start();
    await expectEqual();
    await client.query(NASTY.replaceAll(/^ \((\d)/gm, ' (10$1').replaceAll(/^INSERT/gm, 'INSERT'));
    for (const statement of CHANGES.split(/;\s*/).filter(Boolean)) await client.query(statement);
    await expectEqual();
    for (const statement of DDL.split(/;\s*/).filter(Boolean)) await client.query(statement);
    const verified = await expectEqual();
    expect(new Set(verified.tables.map((table) => table.table))).toContain('public.late');
    expect(verified.tables.find((table) => table.table === 'public.everything')?.rows).toBeGreaterThan(5);
  });

  it('takes a chosen snapshot, sweeps what was deleted while nobody looked, and replays to the same', async () => {
    const snapshot = await system.run(['snapshot', 'shop']);
    expect(snapshot.code, snapshot.stderr).toBe(0);
    await expectEqual();
    const chosen = await system.run(['snapshot', 'shop', '--table', 'toasted', '--where', 'id > 7']);
    expect(chosen.code, chosen.stderr).toBe(0);
    await expectEqual();
    for (const sink of ['ods', 'lake']) {
      const replay = await system.run(['replay', sink]);
      expect(replay.code, replay.stderr).toBe(0);
    }
    await expectEqual();
  });

  it('closes a gap: a slot that was lost leads to a snapshot that also removes deleted rows', async () => {
    await system.stop();
    await client.query(`SELECT pg_drop_replication_slot('tributary_shop')`);
    await client.query(`DELETE FROM late; INSERT INTO late VALUES (2, 'two'); UPDATE toasted SET big = 'gap' WHERE id = 8`);
    await system.start();
    await expectEqual();
  });
});
