import { Fault } from '@tributary/core';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { isoSql } from './cases.ts';

/** One object, and what happened to it: of the root's everything that happened in its case. */
export interface Timeline {
  readonly object: string;
  readonly key: string;
  /** Key of the root object; null while it is not known. */
  readonly case: string | null;
  /** As it is now. Null: only events tell of it. */
  readonly state: string | null;
  readonly alive: boolean | null;
  readonly events: readonly TimelineEvent[];
}

interface TimelineEvent {
  /** ISO 8601: when it was committed. */
  readonly at: string;
  readonly activity: string;
  readonly object: string;
  readonly key: string;
  readonly kind: string;
  readonly before: string | null;
  readonly after: string | null;
  readonly source: string;
  /** `X/X`, and where in its transaction. */
  readonly lsn: string;
  readonly ordinal: number;
}

/** @throws Fault `not_found` when nothing is known of the object */
export async function objectTimeline(
  duck: Duck,
  { object, key, root, limit }: { readonly object: string; readonly key: string; readonly root: string; readonly limit: number },
): Promise<Timeline> {
  const [type, one] = [duckLiteral(object), duckLiteral(key)];
  const related = `EXISTS (SELECT 1 FROM relation r WHERE r.source = event.source AND r.tick = event.tick AND r.object = ${type} AND r.key = ${one})`;
  const inCase = object === root ? ` OR "case" = ${one}` : '';
  const events = await duck.rows<TimelineEvent>(
    `SELECT ${isoSql('at_us')} AS at, activity, object, key, kind, before, after, source,
            printf('%X/%X', (lsn >> 32)::BIGINT, (lsn & 4294967295)::BIGINT) AS lsn, ordinal
       FROM event WHERE (object = ${type} AND key = ${one})${inCase} OR ${related} ORDER BY tick, source LIMIT ${limit}`,
  );
  const [known] = await duck.rows<{ case: string | null; state: string | null; alive: boolean }>(
    `SELECT "case", state, alive FROM object WHERE object = ${type} AND key = ${one}`,
  );
  if (!known && events.length === 0) throw new Fault('not_found', `there is no ${object} of this key in the process`);
  const own = object === root ? key : null;
  return { object, key, case: known?.case ?? own, state: known?.state ?? null, alive: known?.alive ?? null, events };
}
