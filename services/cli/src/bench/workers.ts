import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { StatusTold } from '@tributary/cluster';
import { cpuSecondsOf } from './measure.ts';
import type { World } from './world.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/tributary.js', import.meta.url));

/** One `tributary run SERVICE` process. */
export class WorkerProcess {
  readonly name: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, name: string) {
    this.#child = child;
    this.name = name;
  }

  /** Resolves when it has joined the cluster. @param documents of the config */
  static async start(
    world: World,
    service: 'source' | 'transform' | 'sink',
    documents: readonly object[],
  ): Promise<WorkerProcess> {
    const file = join(world.folder, `${service}.yaml`);
    await writeFile(file, documents.map((document) => JSON.stringify(document)).join('\n---\n'));
    const args = ['run', service, '-f', file, '--nats', world.nats.url, '--data', join(world.folder, 'data'), '--json'];
    const child = spawn(PROGRAM, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-10_000)));
    for await (const line of createInterface({ input: child.stdout })) {
      if (!line.startsWith('{')) continue;
      const { worker } = JSON.parse(line) as { worker: string };
      child.stdout.resume();
      return new WorkerProcess(child, worker);
    }
    throw new Error(`a worker ended before it was ready: ${said}`);
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  cpuSeconds(): number {
    return cpuSecondsOf(this.pid);
  }

  async stop(): Promise<void> {
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    await gone;
  }
}

/** Waits until every actor runs and the workers share them evenly. */
export async function shared(world: World, workers: readonly WorkerProcess[], actors: readonly string[]): Promise<void> {
  const running = new Map<string, Set<string>>();
  await new Promise<void>((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`the workers did not run ${actors.join(', ')} in time`)), 300_000);
    void world.broker.bus.listen('tributary.status', (value) => {
      const told = value as StatusTold;
      running.set(told.worker, new Set(told.actors.flatMap((one) => (one.state === 'running' ? one.name : []))));
      const counts = workers.map(({ name }) => running.get(name)?.size ?? 0);
      const all = workers.flatMap(({ name }) => [...(running.get(name) ?? [])]);
      if (new Set(all).size < actors.length || all.length > actors.length) return;
      if (Math.max(...counts) - Math.min(...counts) > 1) return;
      clearTimeout(late);
      resolve();
    });
  });
}

/** CPU seconds so far of everything that takes part, and of the whole machine. */
export interface CpuTimes {
  readonly workers: number;
  readonly postgres: number;
  readonly nats: number;
  /** All processes of the machine, ours and others'. */
  readonly machine: number;
}

export function cpuTimes(world: World, workers: readonly WorkerProcess[]): CpuTimes {
  return {
    workers: workers.reduce((sum, { pid }) => sum + cpuSecondsOf(pid), 0),
    postgres: treeCpuSeconds(world.postgres.pid),
    nats: cpuSecondsOf(world.nats.pid),
    machine: machineCpuSeconds(),
  };
}

export function since(before: CpuTimes, now: CpuTimes): CpuTimes {
  return {
    workers: now.workers - before.workers,
    postgres: now.postgres - before.postgres,
    nats: now.nats - before.nats,
    machine: now.machine - before.machine,
  };
}

const TICKS_PER_SECOND = 100;

/** Busy time of all cores since the machine started. Linux only; 0 elsewhere. */
function machineCpuSeconds(): number {
  try {
    const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = (readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? '')
      .split(/\s+/)
      .map(Number);
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
  } catch {
    return 0;
  }
}

/** A server with its processes, those that have ended included. */
export function treeCpuSeconds(root: number): number {
  let sum = cpuSecondsOf(root, { withEndedChildren: true });
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const fields = readFileSync(`/proc/${entry}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
      if (Number(fields[1]) === root) sum += cpuSecondsOf(Number(entry));
    } catch {
      // It has ended since: the server has its time now, and the next question finds it there.
    }
  }
  return sum;
}
