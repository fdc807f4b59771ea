import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { describeError, Fault } from '@tributary/core';
import { freePort } from './folder.ts';
import { alive, endStranger, listening, runProgram, ServerProcess } from './server-process.ts';

export interface NatsBinary {
  readonly path: string;
  /** e.g. `2.9.10`. */
  readonly version: string;
}

/**
 * Finds or gets a nats-server: `NATS_SERVER_BIN`, else PATH, else a copy in `cacheDir`, else the system's package,
 * unpacked into `cacheDir` without installing it (Debian and its kin: needs no root while package lists are there).
 * @throws Fault `broker_unreachable` naming the command that installs it
 */
export async function obtainNatsServer(options: { cacheDir?: string; log?: (text: string) => void }): Promise<NatsBinary> {
  const cacheDir = options.cacheDir ?? join(process.cwd(), '.tributary');
  const cached = join(cacheDir, 'bin', 'nats-server');
  const named = process.env['NATS_SERVER_BIN'];
  const found = named || onPath('nats-server') || (existsSync(cached) ? cached : null);
  if (found) return { path: found, version: await versionOf(found) };
  options.log?.("getting nats-server from the system's packages");
  await unpackDebian(cacheDir, cached);
  return { path: cached, version: await versionOf(cached) };
}

function onPath(name: string): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin', '/opt/homebrew/bin'];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null;
}

async function versionOf(path: string): Promise<string> {
  const output = await runProgram(path, ['--version']);
  return /v?(\d+\.\d+\.\d+)/.exec(output)?.[1] ?? 'unknown';
}

async function unpackDebian(cacheDir: string, target: string): Promise<void> {
  const advice = installAdvice();
  if (!onPath('apt-get') || !onPath('dpkg-deb')) {
    throw new Fault('broker_unreachable', `nats-server is missing. Install it with: ${advice}, or set NATS_SERVER_BIN.`);
  }
  const scratch = join(cacheDir, `nats-download-${process.pid}`);
  await mkdir(scratch, { recursive: true });
  try {
    await chmod(scratch, 0o777);
    await download(scratch);
    const archive = (await readdir(scratch)).find((name) => name.endsWith('.deb'));
    if (!archive) throw new Error('apt-get download brought no package');
    await runProgram('dpkg-deb', ['-x', join(scratch, archive), join(scratch, 'root')]);
    const binary = ['usr/sbin', 'usr/bin'].map((f) => join(scratch, 'root', f, 'nats-server')).find((p) => existsSync(p));
    if (!binary) throw new Error('the package holds no nats-server');
    await mkdir(join(cacheDir, 'bin'), { recursive: true });
    await rename(binary, target);
  } catch (error) {
    throw new Fault(
      'broker_unreachable',
      `nats-server is missing and could not be fetched. Install it with: ${advice}, or set NATS_SERVER_BIN.`,
      {},
      { cause: error },
    );
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function download(folder: string): Promise<void> {
  try {
    await runProgram('apt-get', ['download', 'nats-server'], { cwd: folder });
  } catch (error) {
    // Without package lists there is nothing to download; only root may fetch them.
    if (process.getuid?.() !== 0) throw error;
    await runProgram('apt-get', ['update']);
    await runProgram('apt-get', ['download', 'nats-server'], { cwd: folder });
  }
}

function installAdvice(): string {
  if (process.platform === 'darwin') return 'brew install nats-server';
  if (onPath('dnf')) return 'sudo dnf install nats-server';
  if (onPath('apk')) return 'sudo apk add nats-server';
  return 'sudo apt-get update && sudo apt-get install nats-server';
}

export interface NatsOptions {
  /** Holds the JetStream store, the configuration, the log and the pid. */
  readonly dir: string;
  readonly binary: string;
  /** Default: the port of the last start in this folder when it is free, else any free one. */
  readonly port?: number;
  /** Largest message in bytes. Default 8 MiB. */
  readonly maxPayload?: number;
  /** Unique among the servers of a cluster. */
  readonly name?: string;
  /** Starts it again when it ends without being told to. Called with what happened. */
  readonly keepAlive?: (text: string) => void;
  /** Makes it a member of a cluster: streams with replicas, a leader for each. */
  readonly cluster?: NatsClusterOptions;
}

export interface NatsClusterOptions {
  /** Port of this server for the others. */
  readonly port: number;
  /** The same port of every member. */
  readonly memberPorts: readonly number[];
}

export interface NatsServer {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** Ends it (SIGKILL by default, as a crash would) and starts it on the same port and store. */
  restart(signal?: NodeJS.Signals): Promise<void>;
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** How often it is started again when somebody ends it before it answers. */
const LAUNCHES_MAX = 5;

/**
 * Runs nats-server with JetStream on a loopback port. A server that a dead process left behind in this
 * folder is ended first: two on one store would destroy it.
 */
export async function startNats(options: NatsOptions): Promise<NatsServer> {
  const { dir } = options;
  await mkdir(dir, { recursive: true });
  const pidFile = join(dir, 'nats.pid');
  await endLeftover(pidFile);
  const port = options.port ?? (await freePort());
  const configFile = join(dir, 'nats.conf');
  const logFile = join(dir, 'nats.log');
  await writeFile(configFile, configuration(options, port));
  const launch = async (tries = LAUNCHES_MAX): Promise<ServerProcess> => {
    const server = new ServerProcess({
      command: options.binary,
      args: ['-c', configFile, '-P', pidFile],
      logFile,
      orphanSignal: 'TERM',
    });
    try {
      await listening(server, port, logFile);
    } catch (error) {
      if (server.killed && tries > 1) return launch(tries - 1);
      throw new Fault('broker_unreachable', `nats-server did not start (log: ${logFile})`, { port }, { cause: error });
    }
    return server;
  };
  let server = await launch();
  let wanted = true;
  const watch = async (): Promise<void> => {
    const watched = server;
    await watched.exited;
    if (!wanted || server !== watched) return;
    options.keepAlive?.(`nats-server ended unexpectedly and is started again (log: ${logFile})`);
    try {
      server = await launch();
    } catch (error) {
      options.keepAlive?.(`nats-server could not be started again: ${describeError(error)}`);
      return;
    }
    if (wanted) await watch();
    else await server.end('SIGTERM');
  };
  if (options.keepAlive) void watch();
  return {
    url: `nats://127.0.0.1:${port}`,
    port,
    get pid() {
      return server.pid;
    },
    async restart(signal = 'SIGKILL') {
      await server.end(signal);
      server = await launch();
    },
    kill: () => {
      wanted = false;
      return server.end('SIGKILL');
    },
    stop: () => {
      wanted = false;
      return server.end('SIGTERM');
    },
  };
}

async function endLeftover(pidFile: string): Promise<void> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => '0'));
  if (pid > 0 && alive(pid) && (await isNats(pid))) await endStranger(pid, 'SIGTERM');
}

async function isNats(pid: number): Promise<boolean> {
  const command = await readFile(`/proc/${pid}/comm`, 'utf8')
    .catch(() => runProgram('ps', ['-p', String(pid), '-o', 'comm=']))
    .catch(() => '');
  return command.includes('nats-server');
}

function configuration(options: NatsOptions, port: number): string {
  return `# Written at every start.
server_name: ${JSON.stringify(options.name ?? 'tributary')}
host: "127.0.0.1"
port: ${port}
max_payload: ${options.maxPayload ?? 8 * 1024 * 1024}
max_pending: ${128 * 1024 * 1024}
jetstream {
  store_dir: ${JSON.stringify(join(options.dir, 'store'))}
  max_memory_store: ${64 * 1024 * 1024}
  # Streams name their own bounds; the server would refuse one that is larger than today's free disk.
  max_file_store: ${1024 ** 5}
}
${options.cluster ? clusterConfiguration(options.cluster) : ''}`;
}

/** Clients are told no addresses of other members: they dial what they were given, which may be a proxy on the way. */
function clusterConfiguration({ port, memberPorts }: NatsClusterOptions): string {
  const routes = memberPorts.filter((member) => member !== port).map((member) => `"nats-route://127.0.0.1:${member}"`);
  return `cluster {
  name: "tributary"
  listen: "127.0.0.1:${port}"
  no_advertise: true
  routes: [${routes.join(', ')}]
}
`;
}
