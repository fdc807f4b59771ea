import { round } from './measure.ts';
import type { World } from './world.ts';

const COMMITS_PER_SECOND = 1_000;
const SECONDS = 15;

export interface Latency {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** Of the commits alone, which the others include. */
  readonly commitP99Ms: number;
  /** Commits a second that were reached. */
  readonly rate: number;
}

/** A copy of `public.ticks` of database bench. */
export interface TicksCopy {
  readonly database: string;
  /** Quoted. */
  readonly table: string;
}

/**
 * Numbered commits into `public.ticks` of database bench at a steady rate; each is timed from just before its commit until a reader
 * of a copy sees it. Two writers, so that one commit's wait for the disk holds up only every other.
 */
export async function measureLatency(world: World, { database, table }: TicksCopy): Promise<Latency> {
  const reader = await world.session(database);
  const total = COMMITS_PER_SECOND * SECONDS;
  const sent = new Float64Array(total + 1);
  const latencies: number[] = [];
  const commits: number[] = [];
  const source = await world.session('bench');
  const { first } = await source.row<{ first: number }>('SELECT count(*)::int AS first FROM public.ticks');
  let next = 1;
  let seen = 0;
  const start = performance.now();
  const write = async (): Promise<void> => {
    const writer = await world.session('bench');
    // With a lazy commit the WAL would leave only when PostgreSQL's WAL writer wakes up.
    await writer.run('SET synchronous_commit = on');
    while (next <= total) {
      const due = Math.min(total, Math.floor(((performance.now() - start) / 1_000) * COMMITS_PER_SECOND));
      while (next <= due) {
        const n = next++;
        sent[n] = performance.now();
        await writer.prepared('tick', 'INSERT INTO public.ticks VALUES ($1, now())', [first + n]);
        commits.push(performance.now() - (sent[n] as number));
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  const writing = Promise.all([write(), write()]);
  while (seen < total) {
    const rows = await reader
      .rows<{ n: number }>(`SELECT n::float8 - ${first} AS n FROM ${table} WHERE n > $1 ORDER BY n`, [first + seen])
      .catch(() => []);
    const now = performance.now();
    // In order: a number whose predecessor is missing waits for it.
    for (const { n } of rows) {
      if (n !== seen + 1) break;
      latencies.push(now - (sent[n] as number));
      seen = n;
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await writing;
  const rate = round(total / ((performance.now() - start) / 1_000), 1);
  const at = (all: number[], quantile: number) => {
    all.sort((a, b) => a - b);
    return round(all[Math.min(all.length - 1, Math.floor(all.length * quantile))] as number, 1);
  };
  return { p50Ms: at(latencies, 0.5), p99Ms: at(latencies, 0.99), maxMs: at(latencies, 1), commitP99Ms: at(commits, 0.99), rate };
}
