import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryFolder } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT } from '../fixtures/system.ts';
import { filesCanBeLimited } from '../fixtures/worker.ts';

if (!filesCanBeLimited) console.warn('SKIPPED: a full disk, because this machine has no prlimit');

/** Runs in a process of its own, because the limit on the size of files is one of the whole process. */
const SCRIPT = `
import { execFileSync } from 'node:child_process';
import { Database } from '@tributary/duckdb';
const [folder] = process.argv.slice(1);
const open = () => Database.open({ path: folder + '/a.duckdb', memoryBytes: 64 * 2 ** 20, threads: 1, spillDir: folder + '/spill' });
const limit = (bytes) => execFileSync('prlimit', ['--pid', String(process.pid), '--fsize=' + bytes + ':']);
const said = [];
let database = await open();
let duck = await database.connect();
const attempt = (sql) => duck.run(sql).then(() => said.push('done'), (error) => said.push(error.kind));
await duck.run("SET wal_autocheckpoint = '1GB'");
await duck.run("CREATE TABLE t AS SELECT repeat('x', 1000) || i AS a FROM range(2000) r(i)");
await duck.run('CHECKPOINT');
limit(65536);
await attempt("INSERT INTO t SELECT repeat('y', 100000) || i FROM range(10) r(i)");
await attempt("INSERT INTO t VALUES ('small')");
said.push(database.invalid.aborted);
await attempt('CHECKPOINT');
said.push(database.invalid.aborted);
await attempt('SELECT 1 FROM t');
limit('unlimited');
await attempt("INSERT INTO t VALUES ('lost')");
duck.close();
database.close();
database = await open();
duck = await database.connect();
said.push((await duck.rows('SELECT count(*) AS n FROM t'))[0].n, database.invalid.aborted);
database.close();
console.log(JSON.stringify(said));
`;

/** An engine of KPIs whose file cannot grow while changes come that need more, and then can again. */
const ENGINE = `
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { memoryBroker, SectionDraft } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, Op, systemClock } from '@tributary/core';
import { startKpis } from '@tributary/kpi';
const [folder] = process.argv.slice(1);
const limit = (bytes) => execFileSync('prlimit', ['--pid', String(process.pid), '--fsize=' + bytes + ':']);
const { configOf } = await configReading();
const text = 'kind: Source\\nname: s\\npostgres: "postgres://u:p@nowhere/s"\\n---\\nkind: Kpi\\nname: size\\nfrom: { o: s.public.o }\\n'
  + 'measures: { n: { sql: "count(*)" }, chars: { sql: "sum(length(o.note))" }, last: { sql: "max(o.note)" } }\\n';
const broker = memoryBroker();
const faults = [];
const note = (facts) => faults.push(JSON.stringify(facts));
const log = { debug() {}, info() {}, warn: note, error: note };
const runtime = { ...broker, clock: systemClock, log, dataDir: folder, worker: 'w', labels: null, capacity: 1 };
const column = (name, key) => ({ name, type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' }, typmod: -1, sqlType: 'text', key });
const schema = { schema: 'public', table: 'o', identity: 'default', columns: [column('id', 1), column('note', 0)] };
const writer = await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
let rows = 0, seq = 0, unit = 0;
const write = async (count, length) => {
  const section = new SectionDraft(schema);
  for (let i = 1; i <= count; i++) {
    const id = String(++rows);
    section.cells[0].push(id);
    // Of no use to a compression: a full disk is not put off by it.
    section.cells[1].push(Array.from({ length }, () => String.fromCharCode(33 + Math.floor(Math.random() * 90))).join(''));
    section.row(Op.created, 0, i);
  }
  const lsn = BigInt(++unit) * 16n;
  const at = { source: 's', epoch: 'e', kind: 'stream', position: { lsn, ordinal: count }, restart: lsn + 8n, watermark: unit };
  const transactions = [{ lsn, endLsn: lsn + 8n, xid: unit, committedAt: unit }];
  seq = await writer.append({ header: { ...at, continues: false, more: false, mark: null, state: null, transactions }, sections: [section] });
};
await broker.bus.serve('tributary.source.s.barrier', async function* () { yield { seq }; });
/** Every answer that was ever given, without repetitions. */
const told = [];
const values = async () => {
  const answer = await askOne(broker.bus, 'tributary.kpi.size.values', {}).catch((error) => error.kind);
  if (typeof answer === 'string') return null;
  const { n, chars } = answer.rows[0].values;
  if (told.at(-1) !== n + ' ' + chars) told.push(n + ' ' + chars);
  return n;
};
const until = async (met) => { while (!(await met())) await new Promise((resolve) => setTimeout(resolve, 20)); };
await write(10, 10);
const service = await startKpis(await configOf([{ name: 'config', text }], { env: {} }), runtime);
await until(async () => (await values()) === 10);
limit(statSync(folder + '/kpi/kpi.duckdb.wal').size + 4096);
await write(1000, 200);
const full = () => faults.filter((one) => one.includes('disk_full')).length;
// It is told, tried again, and what was there goes on being answered.
await until(async () => (await values()) === 10 && full() >= 2);
limit('unlimited');
await until(async () => (await values()) === 1010);
await write(1, 10);
await until(async () => (await values()) === 1011);
await service.stop();
console.log(JSON.stringify({ told, faults: faults.find((one) => one.includes('disk_full')) }));
`;

describe.skipIf(!filesCanBeLimited)('DuckDB on a full disk', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await temporaryFolder('disk-full');
  });
  afterAll(() => rm(folder, { recursive: true }));

  it('says so, tells when it gave the database up, and has everything committed when it is opened again', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', SCRIPT, folder], {
      cwd: join(ROOT, 'test'),
    });
    const [large, small, before, checkpoint, after, select, insert, rows, again] = JSON.parse(stdout) as unknown[];
    expect([large, small, before]).toEqual(['disk_full', 'done', false]);
    expect([checkpoint, after, select, insert]).toEqual(['disk_full', true, 'disk_full', 'disk_full']);
    expect([rows, again]).toEqual([2001, false]);
  });

  it('an engine of KPIs says so, goes on answering what it committed, and takes in the rest when there is room', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', ENGINE, folder], {
      cwd: join(ROOT, 'test'),
      timeout: 120_000,
    });
    const { told, faults } = JSON.parse(stdout) as { told: string[]; faults: string };
    expect(told).toEqual(['10 100', '1010 200100', '1011 200110']);
    expect(faults).toContain('disk_full');
  });
});
