import { existsSync } from 'node:fs';
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LakeStore } from './lake-store.ts';

describe('state of a lake', () => {
  let folder: string;
  let path: string;
  const told: string[] = [];
  const open = () => LakeStore.open(folder, 'lake', (_facts, message) => told.push(message));
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-lake-store-'));
    path = join(folder, 'lake.duckdb');
    told.length = 0;
  });
  afterEach(() => rm(folder, { recursive: true }));

  it.each([0, 100, 4_096, 12_288])('that a full disk cut at %i bytes is put aside and begun anew', async (bytes) => {
    const first = await open();
    // Closing leaves everything in the WAL.
    const writer = await first.connect();
    await writer.run('CHECKPOINT');
    writer.close();
    first.close();
    await truncate(path, bytes);
    const again = await open();
    const duck = await again.connect();
    expect(await duck.rows('SELECT count(*) AS n FROM _meta.position')).toEqual([{ n: 0 }]);
    duck.close();
    again.close();
    expect(existsSync(`${path}.unreadable`)).toBe(true);
    expect(told).toEqual(['the state of the lake cannot be read; it is put aside and loaded anew']);
  });

  it('that holds something else is put aside, not overwritten', async () => {
    await writeFile(path, 'x'.repeat(20_000));
    (await open()).close();
    expect(existsSync(`${path}.unreadable`)).toBe(true);
  });
});
