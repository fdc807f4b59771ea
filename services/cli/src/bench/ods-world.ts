import { askUntil } from '@tributary/core';
import type { OdsSinkConfig } from '@tributary/config';
import { barrier, projectionSubject } from '../cluster.ts';
import { cpuSecondsOf, measure, round } from './measure.ts';
import { treeCpuSeconds } from './workers.ts';
import type { World } from './world.ts';

const far = () => Date.now() + 900_000;

/** An ODS in the database of its name. */
export function odsSink(
  world: World,
  name: string,
  kept: Partial<Pick<OdsSinkConfig, 'history' | 'softDelete'>> = {},
): OdsSinkConfig {
  return {
    type: 'ods',
    name,
    from: ['*'],
    postgres: world.connection(name),
    partitions: 1,
    onError: 'halt',
    existing: 'refuse',
    foreignKeys: 'check',
    history: false,
    softDelete: false,
    ...kept,
  };
}

/** Is everything that was committed before in the changelog? @returns its end */
export async function captured(world: World): Promise<number> {
  return (await barrier(world.broker.bus, 'bench', far())).seq;
}

/** Has an ODS applied everything up to a place of the changelog? */
export async function reached(world: World, sink: string, seq: number): Promise<void> {
  await askUntil(world.broker.bus, projectionSubject(`${sink}/bench`, 'reached'), { seq }, far());
}

export async function caughtUp(world: World, sink: string): Promise<void> {
  await reached(world, sink, await captured(world));
}

/** What a piece of work took, and whose CPU. */
export interface Cost {
  readonly seconds: number;
  /** CPU seconds of this process, of PostgreSQL, and of the broker. */
  readonly ours: number;
  readonly postgres: number;
  readonly nats: number;
}

const PARTIES = ['ours', 'postgres', 'nats'] as const;

export async function cost(world: World, work: () => Promise<void>): Promise<Cost> {
  const [postgres, nats] = [treeCpuSeconds(world.postgres.pid), cpuSecondsOf(world.nats.pid)];
  const { seconds, cpuSeconds } = await measure(work);
  return {
    seconds,
    ours: cpuSeconds,
    postgres: treeCpuSeconds(world.postgres.pid) - postgres,
    nats: cpuSecondsOf(world.nats.pid) - nats,
  };
}

export interface Speed {
  readonly rowsPerSecond: number;
  readonly cpuMicrosPerRow: Readonly<Record<(typeof PARTIES)[number], number>>;
}

export function speed(rows: number, one: Cost): Speed {
  const micros = PARTIES.map((who) => [who, round((one[who] * 1e6) / rows)]);
  return {
    rowsPerSecond: Math.round(rows / one.seconds),
    cpuMicrosPerRow: Object.fromEntries(micros) as Speed['cpuMicrosPerRow'],
  };
}

export function speedLine(name: string, { rowsPerSecond, cpuMicrosPerRow: { ours, postgres, nats } }: Speed): string {
  const rate = String(rowsPerSecond).padStart(7);
  return `${name.padEnd(26)}${rate} rows/s; CPU µs a row: ours ${ours}, PostgreSQL ${postgres}, broker ${nats}`;
}

/** A session of the server, by the process that serves it. */
const PROCESS_OF = {
  /** The walsender of our slot. */
  ours: `SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name LIKE 'tributary%'`,
  /** That of the subscription's. */
  reference: `SELECT active_pid AS pid FROM pg_replication_slots WHERE slot_name = 'reference'`,
} as const;

/**
 * Processes of the server that are made to stand still (SIGSTOP) while others are measured: readers stay connected and warm, and
 * nothing is applied before it is wanted.
 */
export class Held {
  readonly #world: World;
  readonly #pids = new Set<number>();

  constructor(world: World) {
    this.#world = world;
  }

  hold(who: keyof typeof PROCESS_OF): Promise<() => void> {
    return this.#hold(PROCESS_OF[who]);
  }

  /** Holds the session in which an ODS is written. */
  holdSink(name: string): Promise<() => void> {
    return this.#hold(`SELECT pid FROM pg_stat_activity WHERE application_name = 'tributary ${name}/bench'`);
  }

  async #hold(sql: string): Promise<() => void> {
    const session = await this.#world.session('bench');
    const { pid } = await session.row<{ pid: number }>(sql);
    process.kill(pid, 'SIGSTOP');
    this.#pids.add(pid);
    return () => this.#release(pid);
  }

  releaseAll(): void {
    for (const pid of this.#pids) this.#release(pid);
  }

  #release(pid: number): void {
    if (this.#pids.delete(pid)) process.kill(pid, 'SIGCONT');
  }
}
