import { Fault, systemClock } from '@tributary/core';
import { expect, it } from 'vitest';
import type { Engine, EngineKpi } from './engine.ts';
import { Looks } from './looks.ts';

it('a KPI that cannot be answered is stale at once for what is about its values, and late when that lasts', async () => {
  let now = 1_000_000;
  const alerts = [
    { name: 'drop', about: 'values' },
    { name: 'freshness', about: 'freshness' },
  ];
  const read = async () => {
    throw new Fault('not_complete', 'still being read');
  };
  const store = { read, invalid: new AbortController().signal };
  const engine = { clock: { ...systemClock, now: () => now }, store } as unknown as Engine;
  const kpi = { fault: null, config: { alerts, staleAfterMs: 30_000 } } as unknown as EngineKpi;
  const looks = new Looks(engine, kpi);
  const stale = async () => [...(await looks.look()).alerts.keys()];
  expect(await stale()).toEqual(['drop']);
  now += 30_000;
  expect(await stale()).toEqual(['drop']);
  now += 1;
  expect(await stale()).toEqual(['drop', 'freshness']);
});
