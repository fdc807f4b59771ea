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
});
