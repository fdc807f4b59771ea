import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

/** What a process used while it did a piece of work. */
export interface Usage {
  readonly seconds: number;
  /** Of this process, or of the child that was measured. */
  readonly cpuSeconds: number;
  readonly rssMb: number;
}

const TICKS_PER_SECOND = 100;

/** Resident memory of another process now, MB. */
export function rssMbOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;
}

/** Highest resident memory of this process so far, MB, from the kernel. */
export function peakRssMb(pid: number | 'self' = 'self'): number {
  try {
    return Math.round(Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024);
  } catch {
    return Math.round(process.memoryUsage.rss() / 2 ** 20);
  }
}

/** CPU seconds of another process so far. */
export function cpuSecondsOf(pid: number, { withEndedChildren = false } = {}): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ').map(Number) ?? [];
    const counted = withEndedChildren ? fields.slice(11, 15) : fields.slice(11, 13);
    return counted.reduce((sum, ticks) => sum + ticks, 0) / TICKS_PER_SECOND;
  } catch {
    return 0;
  }
}

export async function measure(work: () => Promise<void>): Promise<Usage> {
  const cpu = process.cpuUsage();
  const start = performance.now();
  await work();
  const used = process.cpuUsage(cpu);
  return { seconds: (performance.now() - start) / 1_000, cpuSeconds: (used.user + used.system) / 1e6, rssMb: peakRssMb() };
}

/** Runs a program to its end and measures it. */
export async function measureProgram(command: string, args: readonly string[]): Promise<Usage> {
  const start = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let cpuSeconds = 0;
  let rssMb = 0;
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const timer = setInterval(() => {
    if (!child.pid) return;
    cpuSeconds = Math.max(cpuSeconds, cpuSecondsOf(child.pid));
    rssMb = Math.max(rssMb, peakRssMb(child.pid));
  }, 50);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  clearInterval(timer);
  if (code !== 0) throw new Error(`${command} ended with code ${code}: ${said}`);
  return { seconds: (performance.now() - start) / 1_000, cpuSeconds, rssMb };
}

/** Finds a program of PostgreSQL's client packages; null where it is not installed. */
export function findProgram(name: string): string | null {
  const folders = [
    ...(process.env['PATH'] ?? '').split(':'),
    ...[18, 17, 16, 15, 14].map((major) => `/usr/lib/postgresql/${major}/bin`),
  ];
  return folders.map((folder) => `${folder}/${name}`).find((path) => existsSync(path)) ?? null;
}

export function round(value: number, digits = 2): number {
  return Number(value.toFixed(digits));
}
