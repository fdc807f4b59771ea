import { type Config, sourcesOfProcess } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { answerProcess, type ProcessMap, type ProcessQuestion, ProcessStore } from '@tributary/monitor';
import { measure, round, type Usage } from './measure.ts';

const CASES = 100_000;
const EVENTS = 1_000_000;
const BEGAN_US = 1_760_000_000_000_000;
/** Between the beginnings of two cases. */
const APART_US = 20_000_000;
const STEP_US = 700_000_000;
/** Cases in which something happens between two questions. */
const CHANGED = 1_000;
const RUNS = 5;

/** What a map takes; medians. */
export interface MapFigures {
  readonly events: number;
  /** Nothing is kept yet. */
  readonly first: Usage;
  readonly changed: number;
  /** Behind another event in so many cases. */
  readonly next: Usage;
  /** The same, of half of the time. */
  readonly half: Usage;
}

/** Maps over a million events of a hundred thousand cases whose ways differ, of a process that goes on. */
export async function mapOfMillion(config: Config, dataDir: string): Promise<MapFigures> {
  const [process] = config.processes;
  if (!process) throw new Error('there is no process');
  const source = sourcesOfProcess(process)[0] as string;
  const store = await ProcessStore.open({ dataDir, process, heldBytes: 2 ** 20, warn: () => {} });
  try {
    await millionEvents(store.writer, source);
    const first = await asked(store, { what: 'map' }, EVENTS);
    const [next, half]: [Usage[], Usage[]] = [[], []];
    const middle = new Date((BEGAN_US + (CASES * APART_US) / 2) / 1_000).toISOString();
    for (let run = 0; run < RUNS; run++) {
      await goOn(store, source, run);
      next.push(await asked(store, { what: 'map' }, EVENTS + (2 * run + 1) * CHANGED));
      await goOn(store, source, RUNS + run);
      half.push(await asked(store, { what: 'map', from: middle }));
    }
    return { events: EVENTS, first, changed: CHANGED, next: median(next), half: median(half) };
  } finally {
    store.close();
  }
}

async function asked(store: ProcessStore, question: ProcessQuestion, events?: number): Promise<Usage> {
  let map: ProcessMap | undefined;
  const usage = await measure(() =>
    store.asking(async (steps) => {
      for await (const answer of answerProcess(steps.duck, question, { name: 'flow', root: 'order', steps }))
        map = answer as ProcessMap;
    }),
  );
  if (!map || (events !== undefined && map.events !== events))
    throw new Error(`the map holds ${map?.events} events, not ${events}`);
  return usage;
}

function median(some: readonly Usage[]): Usage {
  const middle = (of: (usage: Usage) => number) =>
    round(some.map(of).toSorted((a, b) => a - b)[Math.floor(some.length / 2)] as number, 3);
  return { ...(some[0] as Usage), seconds: middle(({ seconds }) => seconds), cpuSeconds: middle(({ cpuSeconds }) => cpuSeconds) };
}

async function millionEvents(duck: Duck, source: string): Promise<void> {
  const at = `(${BEGAN_US} + (i % ${CASES}) * ${APART_US} + (i // ${CASES}) * ${STEP_US} + hash(i) % ${STEP_US})::BIGINT`;
  const activity = `CASE WHEN hash(i * 7) % 20 = 0 THEN 'order checked' ELSE 'order step ' || (i // ${CASES}) END`;
  await duck.run(
    `INSERT INTO event SELECT (i % ${CASES})::VARCHAR, ${activity}, ${at}, ${at}, ${duckLiteral(source)}, i::UBIGINT, 1, 0, 'order', (i % ${CASES})::VARCHAR,
       'state', NULL, NULL, NULL FROM range(${EVENTS}) r(i)`,
  );
  await duck.run(`INSERT INTO place SELECT ${duckLiteral(source)}, 1, '0/1', 0, NULL, max(at_us), max(tick), NULL FROM event`);
}

/** Another event in some cases, behind all that was. */
async function goOn(store: ProcessStore, source: string, run: number): Promise<void> {
  await store.transaction(async (duck) => {
    await duck.run(
      `INSERT INTO event SELECT ((i * 97 + ${run}) % ${CASES})::VARCHAR, 'order step 10', tick + i, tick + i, ${duckLiteral(source)}, i::UBIGINT, 1, 0, 'order',
         ((i * 97 + ${run}) % ${CASES})::VARCHAR, 'state', NULL, NULL, NULL FROM range(1, ${CHANGED + 1}) r(i), place`,
    );
    await duck.run(`UPDATE place SET tick = tick + ${CHANGED}, watermark = watermark + ${CHANGED}`);
  });
}
