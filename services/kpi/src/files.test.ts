import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Clock, Fault } from '@tributary/core';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Snapshot } from './asked.ts';
import { PublishedFiles } from './files.ts';

describe('published files', () => {
  let root: string;
  let stop: AbortController;
  let running: Promise<void>;
  /** How often it has waited, and what ends the wait. */
  let waits: number;
  let go: () => void;
  let ms: number;
  /** What the KPI says, and where its sources stand. */
  let text: string;
  let position: number;
  let failing: Error | null;
  let snapshots: number;
  const told: Record<string, unknown>[] = [];

  const clock: Clock = {
    now: () => ms,
    monotonic: () => ms,
    sleep: (_, signal) =>
      new Promise((resolve, reject) => {
        waits++;
        go = resolve;
        signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      }),
  };
  const folder = () => join(root, 'kpis', 'gmv');
  const day = () => readFile(join(folder(), 'day.parquet'), 'utf8');
  const files = (grains: readonly ('day' | 'hour')[] = ['day']) =>
    new PublishedFiles({
      kpi: 'gmv',
      files: { grains, everyMs: 10_000 },
      folder: folder(),
      clock,
      warn: (facts) => told.push(facts as Record<string, unknown>),
      position: () => String(position),
      scratch: () => join(root, 'scratch', String(snapshots)),
      snapshot: async (grain, { path, due }) => {
        snapshots++;
        if (failing) throw failing;
        const written = due(text);
        if (written) await writeFile(path, `${grain} ${text}`);
        return { written, digest: text, freshness: { position: String(position) } } as Snapshot;
      },
    });
  /** Begins, and resolves when everything was looked at once. */
  const begin = async (one: PublishedFiles) => {
    running = one.run(stop.signal);
    await vi.waitFor(() => expect(waits).toBe(1));
  };
  /** Time passes, and everything is looked at once more. */
  const look = async (passes = 10_000) => {
    ms += passes;
    position++;
    const before = waits;
    go();
    await vi.waitFor(() => expect(waits).toBe(before + 1));
  };
  const inode = async () => (await stat(join(folder(), 'day.parquet'))).ino;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'tributary-files-'));
    await mkdir(join(root, 'scratch'));
    stop = new AbortController();
    running = Promise.resolve();
    [waits, ms, position, snapshots, text, failing] = [0, 1_000_000, 1, 0, 'a', null];
    told.length = 0;
  });
  afterEach(async () => {
    stop.abort(new Error('enough'));
    await running;
    await rm(root, { recursive: true });
  });

  it('hold the newest values, one a grain, and are written when these change: or after a minute, for what they say of their age', async () => {
    const one = files(['hour', 'day']);
    await begin(one);
    expect((await readdir(folder())).toSorted()).toEqual(['day.parquet', 'hour.parquet']);
    expect(await day()).toBe('day a');
    const first = await inode();
    await look();
    expect([await inode(), one.shown()[1]?.position]).toEqual([first, '1']);
    text = 'b';
    await look();
    expect([await day(), one.shown()[1]?.position]).toEqual(['day b', '3']);
    await look(59_000);
    expect(one.shown()[1]?.position).toBe('3');
    await look(1_000);
    expect(one.shown()[1]).toEqual({
      path: join(folder(), 'day.parquet'),
      writtenAt: new Date(ms).toISOString(),
      position: '5',
      reason: null,
    });
    // Nothing is asked while no source moved.
    const asked = snapshots;
    position--;
    await look(0);
    expect(snapshots).toBe(asked);
    expect(await readdir(join(root, 'scratch'))).toEqual([]);
  });

  it('are replaced whole: whoever has the old one open reads it to its end', async () => {
    text = 'a'.repeat(100_000);
    await begin(files());
    const { open } = await import('node:fs/promises');
    const reader = await open(join(folder(), 'day.parquet'));
    const half = Buffer.alloc(50_000);
    await reader.read(half, 0, half.length);
    text = 'b'.repeat(200_000);
    await look();
    const rest = await reader.readFile('utf8');
    await reader.close();
    expect(`${half.toString()}${rest}`).toBe(`day ${'a'.repeat(100_000)}`);
    expect(await day()).toBe(`day ${text}`);
  });

  it('take away what a worker that died left half written, and nothing else', async () => {
    await mkdir(folder(), { recursive: true });
    await writeFile(join(folder(), 'day.parquet.1234.part'), 'half');
    await writeFile(join(folder(), 'month.parquet'), 'of an earlier definition');
    await begin(files());
    expect((await readdir(folder())).toSorted()).toEqual(['day.parquet', 'month.parquet']);
  });

  it('that cannot be written stay as they were; it is told once, with what mends it, and tried again', async () => {
    const one = files();
    await begin(one);
    failing = new Fault('disk_full', 'DuckDB: No space left on device');
    text = 'b';
    await look();
    await look();
    expect(told.map(({ reason }) => reason)).toEqual([
      'DuckDB: No space left on device. Free disk space; work goes on by itself.',
    ]);
    expect([await day(), one.shown()[0]?.reason]).toEqual(['day a', told[0]?.['reason']]);
    failing = null;
    // Also where no source moved since.
    position--;
    await look();
    expect([await day(), one.shown()[0]?.reason]).toEqual(['day b', null]);
    expect(told.length).toBe(1);
  });

  it('wait while there is no folder for them, and while the KPI is still being read', async () => {
    await writeFile(join(root, 'kpis'), 'in the way');
    const one = files();
    await begin(one);
    expect(told.map(({ reason }) => reason)).toEqual([expect.stringContaining(`See that ${folder()} is there`)]);
    await rm(join(root, 'kpis'));
    failing = new Fault('not_complete', 'still being read');
    await look();
    expect(told.length).toBe(1);
    failing = null;
    await look();
    expect(await day()).toBe('day a');
    // The share was emptied.
    await rm(join(root, 'kpis'), { recursive: true });
    text = 'b';
    await look();
    await look();
    expect(await day()).toBe('day b');
  });

  it('end with what is a mistake of ours', async () => {
    failing = new TypeError('no such method');
    await expect(files().run(stop.signal)).rejects.toThrow('no such method');
  });
});
