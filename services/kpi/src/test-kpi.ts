import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { memoryBroker } from '@tributary/changelog';
import type { KpiConfig, KpiTest } from '@tributary/config';
import { Fault, ORIGIN, type StoredBatch, systemClock } from '@tributary/core';
import { valuesAt } from './asked.ts';
import { Engine, type EngineKpi } from './engine.ts';
import { type Fixture, readFixture, silentDraft } from './fixture.ts';
import { KpiProjection } from './projection.ts';
import { KpiStore } from './store.ts';
import type { ValueRow } from './values.ts';

type Cells = Readonly<Record<string, unknown>>;

/** One row in which an answer is not what was expected; `expected` null: no such row; `actual` null: it is not there. */
export interface KpiTestDifference {
  readonly row: Cells;
  readonly expected: Cells | null;
  readonly actual: Cells | null;
}

const MEMORY_BYTES = 128 * 2 ** 20;
/** Doubles that differ by less are the same: a sum depends on the order of its parts. */
const RELATIVE_ERROR = 1e-9;

/**
 * Runs a test of a definition through the engine itself: changes are applied transaction by transaction, as they would be from
 * changelogs, to a file that is removed afterwards. What is kept by deltas must also be what the definition says over the rows.
 * @param text of the fixture
 * @returns the differences; none: the test passed
 * @throws Fault `config_invalid` when fixture or definition cannot be used
 */
export async function testKpi(config: KpiConfig, test: KpiTest, text: string): Promise<KpiTestDifference[]> {
  const fixture = readFixture(test.fixture, text);
  const folder = await mkdtemp(join(tmpdir(), 'tributary-kpi-test-'));
  try {
    const warn = () => {};
    const store = await KpiStore.open({ folder, engine: 'test', memoryBytes: MEMORY_BYTES, threads: 1, warn });
    try {
      return await tested(config, { test, fixture, store });
    } finally {
      await store.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function tested(
  config: KpiConfig,
  { test, fixture, store }: { test: KpiTest; fixture: Fixture; store: KpiStore },
): Promise<KpiTestDifference[]> {
  const { definition } = config;
  const at = test.at ?? Math.max(0, ...fixture.steps.map(({ committedAt }) => committedAt));
  const named = definition.kind === 'measures' ? definition.from.map(({ source }) => source) : [];
  const sources = [...new Set([...fixture.shapes.keys(), ...named])];
  const clock = { ...systemClock, now: () => at / 1_000 };
  const problems: string[] = [];
  const warn = (_facts: object, message: string) => void problems.push(message);
  const engine = await Engine.open({ name: 'test', kpis: [config], sources, store, clock, warn });
  const kpi = engine.kpis.get(config.name) as EngineKpi;
  if (kpi.fault) throw kpi.fault;
  await applied(engine, fixture, at);
  const release = await store.lock();
  try {
    await engine.define(kpi);
    const lack = engine.lack(kpi);
    if (lack) throw lack;
    await engine.check(kpi, true);
    if (problems.length > 0)
      throw new Fault('config_invalid', `Kpi ${config.name}: ${problems.join('; ')}`, { kpi: config.name });
  } finally {
    release();
  }
  const dimensions = definition.kind === 'measures' ? Object.keys(definition.dimensions) : [];
  const by = dimensions.filter((name) => test.expect.some((row) => name in row));
  const ask = { by, ...(test.grain ? { grain: test.grain } : {}) };
  const { rows } = await store.read((duck) => valuesAt(engine, kpi, { duck, ask }));
  return compared(
    test.expect,
    rows.map((row) => flat(row)),
    definition.kind === 'measures' ? ['bucket', ...by] : null,
  );
}

/** Applies every transaction that was committed until then by itself, so that deltas are taken, not everything computed at the end. */
async function applied(engine: Engine, fixture: Fixture, at: number): Promise<void> {
  const { changelogs, bus } = memoryBroker();
  const open = async (source: string) => {
    const writer = await changelogs.write(source, { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    const stop = await bus.serve(`tributary.source.${source}.barrier`, async function* () {
      yield { seq: 0, shapes: fixture.shapes.get(source) ?? [] };
    });
    const projection = await KpiProjection.open({ engine, source, bus, lakes: [], warn: () => {} });
    let n = 0;
    const end = new AbortController();
    const batches = changelogs.read(source, { after: ORIGIN, signal: end.signal })[Symbol.asyncIterator]();
    const apply = async (make: (n: number) => Parameters<typeof writer.append>[0]) => {
      await writer.append(make(++n));
      const batch = (await batches.next()).value as StoredBatch;
      const { position, epoch, watermark } = batch.header;
      await projection.apply({ batches: [batch], after: { seq: batch.seq, ...position, epoch }, watermark, partial: false });
    };
    const silent = (watermark: number) => apply((i) => silentDraft(source, watermark, i));
    do {
      await turn();
      await silent(0);
    } while (!projection.facts()['complete']);
    const close = async () => {
      end.abort();
      await projection.close();
      await stop();
    };
    return { apply, silent, close };
  };
  const opened = new Map<string, Awaited<ReturnType<typeof open>>>();
  try {
    for (const source of engine.sources.keys()) opened.set(source, await open(source));
    for (const { source, committedAt, draft } of fixture.steps) if (committedAt <= at) await opened.get(source)?.apply(draft);
    for (const { silent } of opened.values()) await silent(at);
  } finally {
    for (const { close } of opened.values()) await close();
  }
}

function flat(row: Cells | ValueRow): Cells {
  if (!('values' in row && 'dimensions' in row)) return row as Cells;
  const { bucket, dimensions, values } = row as ValueRow;
  return { ...(bucket === null ? {} : { bucket }), ...dimensions, ...values };
}

/**
 * Rows that are not as expected; only columns that are named count.
 * @param keys columns that tell rows apart; null: a row is found by all of its columns
 */
export function compared(expect: readonly Cells[], rows: readonly Cells[], keys: readonly string[] | null): KpiTestDifference[] {
  const left = [...rows];
  const differences: KpiTestDifference[] = [];
  for (const expected of expect) {
    const named = Object.keys(expected);
    const apart = keys?.filter((key) => named.includes(key)) ?? named;
    const is = (row: Cells, columns: readonly string[]) => columns.every((name) => same(name, expected[name], row[name]));
    const found = left.filter((row) => is(row, apart));
    const row = pick(expected, apart);
    if (keys && found.length > 1)
      throw new Fault('config_invalid', `tests: ${JSON.stringify(row)} stands for ${found.length} rows: name their "bucket"`);
    const [actual] = found;
    if (actual) left.splice(left.indexOf(actual), 1);
    if (actual && is(actual, named)) continue;
    const wrong = actual ? named.filter((name) => !same(name, expected[name], actual[name])) : named;
    differences.push({ row, expected: pick(expected, wrong), actual: actual ? pick(actual, wrong) : null });
  }
  for (const actual of left) differences.push({ row: keys ? pick(actual, keys) : actual, expected: null, actual });
  return differences;
}

function pick(row: Cells, names: readonly string[]): Cells {
  return Object.fromEntries(names.filter((name) => name in row).map((name) => [name, row[name]]));
}

/** A bucket may be written as short as it is clear: 2026-11-01 is the one that begins then in the KPI's zone. */
function same(name: string, expected: unknown, actual: unknown): boolean {
  if (expected === null || actual === null) return expected === actual;
  if (name === 'bucket' && typeof actual === 'string') {
    const text = String(expected);
    return actual.startsWith(text) || (/(Z|[+-]\d\d:?\d\d)$/.test(text) && Date.parse(text) === Date.parse(actual));
  }
  if (typeof expected !== 'number') return String(expected) === String(actual);
  const is = Number(actual);
  return is === expected || Math.abs(is - expected) <= RELATIVE_ERROR * Math.max(Math.abs(is), Math.abs(expected));
}
