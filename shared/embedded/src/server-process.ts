import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { Socket } from 'node:net';

export interface ServerCommand {
  readonly command: string;
  readonly args: readonly string[];
  readonly logFile: string;
  /** Runs as this user; only root may ask for one. */
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly env?: NodeJS.ProcessEnv;
  /** What asks the server to end when our process has died. */
  readonly orphanSignal: 'TERM' | 'INT' | 'QUIT';
}

/**
 * A server of ours: ends when it is told to, and also when this process dies without a word. For that a
 * shell waits at the end of a pipe that only this process holds open; when the pipe closes it sends the signal.
 */
export class ServerProcess {
  readonly #child: ChildProcess;
  readonly #guard: ChildProcess;
  readonly #exited: Promise<unknown>;

  constructor(server: ServerCommand) {
    const log = openSync(server.logFile, 'a');
    this.#child = spawn(server.command, server.args, {
      stdio: ['ignore', log, log],
      detached: true,
      env: server.env ?? process.env,
      ...(server.uid === undefined ? {} : { uid: server.uid, gid: server.gid }),
    });
    closeSync(log);
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', resolve);
      this.#child.once('error', resolve);
    });
    const script = `cat >/dev/null; kill -${server.orphanSignal} "$1" 2>/dev/null`;
    this.#guard = spawn('/bin/sh', ['-c', script, 'guard', String(this.#child.pid ?? 0)], {
      stdio: ['pipe', 'ignore', 'ignore'],
      detached: true,
    });
    this.#child.unref();
    this.#guard.unref();
    (this.#guard.stdin as Socket | null)?.unref?.();
    void this.#exited.then(() => this.#guard.kill('SIGKILL'));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get running(): boolean {
    return this.#child.pid !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** It did not end by itself: somebody ended it. */
  get killed(): boolean {
    return this.#child.signalCode !== null;
  }

  /** Resolves when it has ended, for whatever reason. */
  get exited(): Promise<unknown> {
    return this.#exited;
  }

  /** Sends a signal and waits for the end; kills after `patienceMs`. */
  async end(signal: NodeJS.Signals, patienceMs = 15_000): Promise<void> {
    if (!this.running) return;
    this.#child.ref();
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), patienceMs);
    await this.#exited;
    clearTimeout(timer);
  }
}

/** Resolves when something listens on a loopback port. @throws when `server` ends first, with the end of its log */
export async function listening(server: ServerProcess, port: number, logFile: string): Promise<void> {
  for (;;) {
    if (!server.running) throw new Error(`${await tail(logFile)}`);
    if (await answers(port)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = new Socket();
    const done = (answer: boolean) => {
      socket.destroy();
      resolve(answer);
    };
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
    socket.connect(port, '127.0.0.1');
  });
}

export async function tail(file: string, lines = 15): Promise<string> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}

/** Waits until a process that is not a child of ours has ended; asks it to with `signal`, kills after `patienceMs`. */
export async function endStranger(pid: number, signal: NodeJS.Signals, patienceMs = 10_000): Promise<void> {
  const deadline = Date.now() + patienceMs;
  for (let asked = false; alive(pid); ) {
    if (!asked) process.kill(pid, signal);
    else if (Date.now() > deadline) process.kill(pid, 'SIGKILL');
    asked = true;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Runs a program to its end. @throws with its output when it fails */
export async function runProgram(
  command: string,
  args: readonly string[],
  options: { cwd?: string; uid?: number | undefined; gid?: number | undefined; env?: NodeJS.ProcessEnv } = {},
): Promise<string> {
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.cwd ? { cwd: options.cwd } : {}),
    ...(options.env ? { env: options.env } : {}),
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.gid }),
  });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} failed (exit ${code}):\n${output.trim()}`);
  return output;
}
