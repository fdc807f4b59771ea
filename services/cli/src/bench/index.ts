import { Fault } from '@tributary/core';
import type { Output } from '../output.ts';
import { benchFreshness } from './freshness.ts';
import { benchKpi } from './kpi.ts';
import { benchOdsKept } from './ods-kept.ts';
import { benchOds } from './ods.ts';
import { benchProcess } from './process.ts';
import { benchScale, benchScaleTransform } from './scale.ts';
import { benchSnapshot } from './snapshot.ts';
import { benchSource } from './source.ts';
import { benchTransform } from './transform.ts';

const BENCHES: Readonly<
  Record<
    string,
    { readonly run: (rows: number, output: Output, options: { rate?: number }) => Promise<void>; readonly rows: number }
  >
> = {
  source: { run: benchSource, rows: 1_000_000 },
  snapshot: { run: benchSnapshot, rows: 3_000_000 },
  ods: { run: benchOds, rows: 300_000 },
  'ods-kept': { run: benchOdsKept, rows: 200_000 },
  kpi: { run: benchKpi, rows: 1_000_000 },
  process: { run: benchProcess, rows: 300_000 },
  freshness: { run: benchFreshness, rows: 10_000_000 },
  transform: { run: benchTransform, rows: 500_000 },
  scale: { run: benchScale, rows: 100_000 },
  'scale-transform': { run: benchScaleTransform, rows: 300_000 },
};

export async function bench(name: string, options: { rows?: string; rate?: string }, output: Output): Promise<void> {
  const chosen = BENCHES[name];
  if (!chosen) throw new Fault('not_found', `there is no bench ${name} (yet). Benches: ${Object.keys(BENCHES).join(', ')}`);
  const rows = options.rows === undefined ? chosen.rows : Number(options.rows);
  if (!Number.isInteger(rows) || rows < 1_000)
    throw new Fault('config_invalid', `--rows ${options.rows}: expected a whole number of at least 1000`);
  await chosen.run(rows, output, options.rate === undefined ? {} : { rate: Number(options.rate) });
}
