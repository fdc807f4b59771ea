import { z } from 'zod';
import { plainSubject } from './events.ts';
import { type Grain, GRAINS, ident } from './kpi-names.ts';
import { duration } from './units.ts';

/** Values that are sent to programs outside as they change. */
export interface KpiPublish {
  /** Of NATS; null: to hooks alone. */
  readonly subject: string | null;
  /** Names of hooks. */
  readonly to: readonly string[];
  /** Which values; see the question of `kpi values`. */
  readonly ask: { readonly grain?: Grain; readonly measures?: readonly string[]; readonly by?: readonly string[] };
  readonly everyMs: number;
  /** Null: none. */
  readonly files: KpiFiles | null;
}

/** Parquet files for tools that read files: one for each grain; without time one for all. */
export interface KpiFiles {
  /** Empty: the KPI has no time. */
  readonly grains: readonly Grain[];
  /** They are looked at, and written where something changed, so often. */
  readonly everyMs: number;
}

/** Every look is a question to DuckDB, and may become a file. */
const FILES_EVERY_MS_MIN = 100;

const files = z.strictObject({ grains: z.array(z.enum(GRAINS)).min(1).optional(), every: duration('10s') });

export const publish = z.strictObject({
  nats: z.union([z.boolean(), z.strictObject({ subject: plainSubject })]).default(true),
  to: z.array(z.string()).default([]),
  grain: z.enum(GRAINS).optional(),
  measures: z.array(ident).min(1).optional(),
  by: z.array(ident).optional(),
  every: duration('1s'),
  files: z.union([z.boolean().transform((wanted) => (wanted ? files.parse({}) : null)), files]).default(null),
});

type PublishDocument = z.output<typeof publish>;

interface Publishing {
  readonly publish?: PublishDocument | undefined;
  readonly sql?: string | undefined;
  readonly time?: { readonly grains: readonly Grain[] } | undefined;
  readonly dimensions: Readonly<Record<string, string>>;
  readonly measures?: Readonly<Record<string, unknown>> | undefined;
}

export function checkPublish(
  { publish: published, sql, measures = {}, dimensions, time }: Publishing,
  complain: (message: string, ...path: string[]) => void,
): void {
  if (!published) return;
  const { grain, measures: chosen = [], by = [] } = published;
  // One SELECT has none of these, and says all that it has.
  if (sql === undefined) {
    if (grain && !time?.grains.includes(grain)) complain(`${grain} is not among time.grains`, 'publish', 'grain');
    for (const name of chosen) if (!measures[name]) complain(`there is no measure ${name}`, 'publish', 'measures');
    for (const name of by) if (!(name in dimensions)) complain(`there is no dimension ${name}`, 'publish', 'by');
  }
  const { grains = [], every } = published.files ?? { every: FILES_EVERY_MS_MIN };
  grains.forEach((one, i) => {
    if (!time?.grains.includes(one)) complain(`${one} is not among time.grains`, 'publish', 'files', 'grains', String(i));
  });
  if (every < FILES_EVERY_MS_MIN) complain(`expected at least ${FILES_EVERY_MS_MIN} ms`, 'publish', 'files', 'every');
}

export function publishOf(
  { name, time }: { readonly name: string } & Pick<Publishing, 'time'>,
  { nats, to, every, grain, measures, by, files: written }: PublishDocument,
): KpiPublish {
  const subject = typeof nats === 'object' ? nats.subject : nats ? `kpi.${name}` : null;
  const ask = { ...(grain ? { grain } : {}), ...(measures ? { measures } : {}), ...(by ? { by } : {}) };
  const grains = written?.grains ?? (grain ? [grain] : (time?.grains ?? []));
  return { subject, to, ask, everyMs: every, files: written && { grains: [...new Set(grains)], everyMs: written.every } };
}
