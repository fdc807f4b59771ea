import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { testModule } from './test-module.ts';

describe('a module under test', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-module-'));
  });
  afterEach(() => rm(folder, { recursive: true }));

  it('goes through what a transform does with it: TypeScript, imports, values and types', async () => {
    await writeFile(join(folder, 'rate.ts'), 'export const RATE: number = 19;');
    const path = join(folder, 'tax.ts');
    await writeFile(
      path,
      `import { RATE } from './rate.ts';
       interface Row { net: string; free: boolean }
       export const columns = { tax: 'numeric(12,2)' };
       export default ({ rows }: { rows: Row[] }) => rows.map((row) => row.net === null ? null : { tax: row.free ? 0 : Number(row.net) * RATE / 100 });`,
    );
    const columns = { id: 'bigint', net: 'numeric(12,2)', free: 'boolean' };
    const rows = [
      { id: 1, net: '100.00', free: false },
      { id: 2, net: null, free: false },
      { id: 3, net: '7.00', free: true },
    ];
    expect(await testModule(path, { columns, rows })).toEqual([
      { id: '1', net: '100.00', free: 'f', tax: '19.00' },
      null,
      { id: '3', net: '7.00', free: 't', tax: '0.00' },
    ]);
  });

  it('is refused with its place', async () => {
    const path = join(folder, 'bad.ts');
    await writeFile(path, `export const columns = {};\nexport default (=> 1;`);
    await expect(testModule(path, { columns: { id: 'int' }, rows: [] })).rejects.toThrow(/bad.ts:2:\d+: Unexpected "=>"/);
    await expect(testModule(join(folder, 'none.js'), { columns: { id: 'int' }, rows: [] })).rejects.toThrow(
      /none.js: there is no such file/,
    );
  });
});
