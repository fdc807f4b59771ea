import { among, type Duck } from '@tributary/duckdb';
import type { EventKind, ProcessEvent } from '../state.ts';
import type { CaseEvent, CaseHistory, CaseObject } from './judge.ts';
import type { Shapes } from './shapes.ts';

/** What one transaction brings of a source, up to a watermark: its events are those behind a tick (M1). */
export interface News {
  readonly source: string;
  readonly watermark: number;
  readonly behind: number;
  /** Those events, where they are known; null = they are to be read. */
  readonly events: readonly ProcessEvent[] | null;
  /** Cases stand in `_recast`. */
  readonly recast: boolean;
}

const EVENT = '"case", at_us, tick, source, lsn, ordinal, activity, object, key, kind, before, after';

/**
 * What is new, by case, in order.
 * @returns null when there are more than `eventsMax`
 */
export async function newEvents(
  duck: Duck,
  { source, behind, events }: News,
  { shapes, eventsMax }: { readonly shapes: Shapes; readonly eventsMax: number },
): Promise<Map<string, CaseEvent[]> | null> {
  if (events) return casesOf(events, shapes);
  const found = await readEvents(
    duck,
    `SELECT ${EVENT} FROM event WHERE source = $1 AND tick > $2::BIGINT AND "case" IS NOT NULL ORDER BY tick LIMIT ${eventsMax + 1}`,
    { values: [source, String(behind)], shapes },
  );
  return found.rows > eventsMax ? null : found.byCase;
}

/** The cases of these events are read as a whole. */
export async function recastNew(duck: Duck, { source, behind }: News): Promise<void> {
  await duck.run('INSERT INTO _recast SELECT DISTINCT "case" FROM event WHERE source = $1 AND tick > $2::BIGINT', [
    source,
    String(behind),
  ]);
}

function casesOf(events: readonly ProcessEvent[], shapes: Shapes): Map<string, CaseEvent[]> {
  const byCase = new Map<string, CaseEvent[]>();
  for (const event of events) {
    const { case: own, atUs, tick, lsn, ordinal, key } = event;
    if (own !== null) push(byCase, own, { atUs, tick, lsn: exact(lsn), ordinal, key, shape: shapes.of(event) });
  }
  return byCase;
}

function exact(lsn: bigint): number | bigint {
  const number = Number(lsn);
  return Number.isSafeInteger(number) ? number : lsn;
}

/** Everything that is stored of cases; those without an event too. */
export async function readHistories(
  duck: Duck,
  cases: readonly string[],
  { withEvents, shapes }: { readonly withEvents: readonly string[]; readonly shapes: Shapes },
): Promise<Map<string, CaseHistory>> {
  const events = withEvents.length === 0 ? null : await eventsOf(duck, withEvents, shapes);
  const met = await metObjects(duck, cases);
  return new Map(
    cases.map((own) => [own, { case: own, events: events?.byCase.get(own) ?? [], objects: met.get(own) ?? [] }] as const),
  );
}

/** Which of these cases were judged before. */
export async function knownCases(duck: Duck, cases: readonly string[]): Promise<Set<string>> {
  if (cases.length === 0) return new Set();
  const { each, value } = among(cases, 1);
  const { c } = await duck.columns(`SELECT "case" AS c FROM followed WHERE "case" IN (SELECT ${each})`, [value]);
  return new Set(c as readonly string[]);
}

async function eventsOf(duck: Duck, cases: readonly string[], shapes: Shapes): Promise<EventsRead> {
  const { each, value } = among(cases, 1);
  return readEvents(duck, `SELECT ${EVENT} FROM event WHERE "case" IN (SELECT ${each}) ORDER BY tick, source`, {
    values: [value],
    shapes,
  });
}

/** Objects that were met in the middle of their lives, by case: of others nothing is asked. */
async function metObjects(duck: Duck, cases: readonly string[]): Promise<Map<string, CaseObject[]>> {
  const { each, value } = among(cases, 1);
  const rows = await duck.rows<CaseObject & { c: string }>(
    `SELECT "case" AS c, object, key, state, born, alive FROM object WHERE NOT born AND "case" IN (SELECT ${each}) ORDER BY object, key`,
    [value],
  );
  const found = new Map<string, CaseObject[]>();
  for (const { c, ...object } of rows) push(found, c, object);
  return found;
}

interface EventsRead {
  readonly rows: number;
  readonly byCase: Map<string, CaseEvent[]>;
}

async function readEvents(
  duck: Duck,
  sql: string,
  { values, shapes }: { readonly values: NonNullable<Parameters<Duck['columns']>[1]>; readonly shapes: Shapes },
): Promise<EventsRead> {
  const read = await duck.columns(sql, values);
  const text = (name: string) => read[name] as readonly string[];
  const optional = (name: string) => read[name] as readonly (string | null)[];
  const number = (name: string) => read[name] as readonly bigint[];
  const cases = text('case');
  const [source, activity, object, key] = [text('source'), text('activity'), text('object'), text('key')];
  const [atUs, tick, lsn, ordinal] = [number('at_us'), number('tick'), number('lsn'), number('ordinal')];
  const [kind, before, after] = [text('kind') as readonly EventKind[], optional('before'), optional('after')];
  const byCase = new Map<string, CaseEvent[]>();
  for (const [i, own] of cases.entries()) {
    const shape = shapes.of({
      source: source[i] as string,
      activity: activity[i] as string,
      object: object[i] as string,
      kind: kind[i] as EventKind,
      before: before[i] ?? null,
      after: after[i] ?? null,
    });
    push(byCase, own, {
      atUs: Number(atUs[i]),
      tick: Number(tick[i]),
      lsn: exact(lsn[i] as bigint),
      ordinal: Number(ordinal[i]),
      key: key[i] as string,
      shape,
    });
  }
  return { rows: cases.length, byCase };
}

function push<Value>(groups: Map<string, Value[]>, name: string, value: Value): void {
  const group = groups.get(name);
  if (group) group.push(value);
  else groups.set(name, [value]);
}
