import type { AllowedTransitions, ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { readPlaces } from '../live/place.ts';

/** What was learned, and by which words of the definition; one row. */
export const LEARNED_TABLE = 'CREATE TABLE IF NOT EXISTS learned (version VARCHAR NOT NULL, allowed VARCHAR NOT NULL)';

/**
 * The changes of states that are allowed from `until` on: those that were usual before, at least `minShare` of the changes that leave the
 * same state. Of every type with a state that `allowed` does not name and that changed at all.
 * @returns null while some source of such a type was not read up to then
 */
export async function learnTransitions(
  duck: Duck,
  { objects, conformance: { learned, allowed } }: ProcessConfig,
): Promise<AllowedTransitions[] | null> {
  if (!learned) return [];
  const types = objects.filter(({ name, state }) => state !== null && !allowed.some(({ object }) => object === name));
  const untilUs = learned.untilMs * 1_000;
  const places = await readPlaces(duck);
  if (types.some(({ source }) => (places.get(source)?.watermark ?? 0) <= untilUs)) return null;
  if (types.length === 0) return [];
  const rows = await duck.rows<{ object: string; before: string | null; after: string }>(
    `WITH change AS (SELECT object, CASE kind WHEN 'state' THEN before END AS before, after FROM event
        WHERE object IN (${types.map(({ name }) => duckLiteral(name)).join(', ')}) AND at_us < ${untilUs} AND after IS NOT NULL
          AND (kind = 'created' OR (kind = 'state' AND before <> after)))
     SELECT object, before, after FROM (SELECT object, before, after, count(*) AS n FROM change GROUP BY ALL)
     QUALIFY n >= ${learned.minShare} * sum(n) OVER (PARTITION BY object, before) ORDER BY object, before NULLS FIRST, after`,
  );
  return types.flatMap(({ name }): AllowedTransitions[] => {
    const transitions = rows.flatMap(({ object, before, after }) => (object === name ? [[before, after] as const] : []));
    return transitions.length === 0 ? [] : [{ object: name, transitions, fromUs: untilUs }];
  });
}

/** What was learned by this definition; null: nothing yet. */
export async function learnedBefore(duck: Duck, process: ProcessConfig): Promise<readonly AllowedTransitions[] | null> {
  const [row] = await duck.rows<{ version: string; allowed: string }>('SELECT version, allowed FROM learned');
  return row?.version === versionOf(process) ? (JSON.parse(row.allowed) as AllowedTransitions[]) : null;
}

/** In a transaction of the caller's. */
export async function keepLearned(duck: Duck, process: ProcessConfig, allowed: readonly AllowedTransitions[]): Promise<void> {
  await duck.run('DELETE FROM learned');
  await duck.run('INSERT INTO learned VALUES ($1, $2)', [versionOf(process), JSON.stringify(allowed)]);
}

/** The process as it is judged: with what it has learned. */
export function withLearned(process: ProcessConfig, learned: readonly AllowedTransitions[]): ProcessConfig {
  const { conformance } = process;
  return { ...process, conformance: { ...conformance, allowed: [...conformance.allowed, ...learned] } };
}

function versionOf({ conformance: { learned, allowed } }: ProcessConfig): string {
  return JSON.stringify([learned, allowed.map(({ object }) => object)]);
}
