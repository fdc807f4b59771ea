import { registeredActors } from '@tributary/cluster';
import { configReading } from '@tributary/config';
import type { TypedColumn } from '@tributary/console';
import { askOne, csvLine, Fault, outlastingLoss, shown as cell } from '@tributary/core';
import type { KpiFreshness, ValuesQuestion } from '@tributary/kpi';
import { environment } from '@tributary/ops';
import { connect, type Connected, type Where } from '../addresses.ts';
import { arrow } from '../arrow.ts';
import { type Output, table } from '../output.ts';

export interface KpiOptions extends Where {
  readonly grain?: string;
  readonly measure?: string;
  readonly from?: string;
  readonly to?: string;
  readonly by?: string;
  readonly filter: readonly string[];
  readonly fill?: string;
  readonly asOf?: string;
  readonly format?: string;
  readonly bucket?: string;
  readonly file: readonly string[];
}

interface Part {
  readonly columns?: readonly TypedColumn[];
  readonly rows?: readonly Record<string, unknown>[];
  readonly freshness?: KpiFreshness;
  readonly bytes?: Uint8Array;
}

interface Shown {
  readonly name: string;
  readonly state: string;
  readonly reason: string | null;
  readonly tables: readonly string[];
  /** Null while it cannot be answered. */
  readonly freshness: Pick<KpiFreshness, 'lagMs' | 'targetMs' | 'withinTarget'> | null;
}

/** `kpi list|show|values|rows|revisions|preview|validate|test|backfill`. @returns of `test`: did all of them pass? */
export async function kpi(
  action: string,
  name: string | undefined,
  options: KpiOptions,
  output: Output,
): Promise<boolean | void> {
  if (action === 'test') return (await import('./kpi-test.ts')).testKpis(name, options.file, output);
  const connected = await connect(options);
  try {
    if (action === 'list') return await list(connected, output);
    if (action === 'preview' || action === 'validate') return await definitions(connected, action, { options, output });
    if (!['show', 'values', 'rows', 'revisions', 'backfill'].includes(action))
      throw new Fault(
        'config_invalid',
        `kpi ${action} is not known; use list, show, values, rows, revisions, preview, validate, test or backfill`,
      );
    if (name === undefined) throw new Fault('config_invalid', `kpi ${action} needs the name of a KPI`);
    if (action === 'values') return await values(connected, name, { options, output });
    if (action === 'rows' || action === 'revisions') return await listed(connected, name, { action, options, output });
    const told = await ask<Shown>(connected, name, action, {});
    output.value(told);
  } finally {
    await connected.broker.close();
  }
}

async function list(connected: Connected, output: Output): Promise<void> {
  const shown = await Promise.all((await names(connected)).map((name) => ask<Shown>(connected, name, 'show', {})));
  if (output.json) output.value(shown);
  else
    output.line(
      table(
        ['kpi', 'state', 'age', 'reads', ''],
        shown.map(({ name, state, freshness, tables, reason }) => [
          name,
          state,
          ageIn(freshness),
          tables.join(', '),
          reason ?? '',
        ]),
      ),
    );
}

/** How old values are, and whether that is what was promised. */
function ageIn(freshness: Shown['freshness']): string {
  if (!freshness) return '';
  const { lagMs, targetMs, withinTarget } = freshness;
  if (targetMs === null) return `${lagMs} ms`;
  return `${lagMs} ms (target ${targetMs} ms${withinTarget === false ? ', missed' : ''})`;
}

async function names({ broker }: Connected): Promise<string[]> {
  const actors = await registeredActors(broker.kv);
  return actors
    .flatMap(({ name, kind }) => (kind === 'query' && name.startsWith('kpi.') ? [name.slice('kpi.'.length)] : []))
    .toSorted();
}

async function ask<T>(connected: Connected, name: string, what: string, question: object): Promise<T> {
  const once = () =>
    askOne<T>(connected.broker.bus, `tributary.kpi.${name}.${what}`, { ...question, reader: 'local' }, { idleMs: 600_000 });
  try {
    return await (what === 'backfill' ? once() : outlastingLoss(once));
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'not_found') throw error;
    const there = (await names(connected)).join(', ') || 'none';
    throw new Fault('not_found', `there is no KPI ${name}, or its worker does not run. KPIs: ${there}`, {}, { cause: error });
  }
}

function questionOf(options: KpiOptions): ValuesQuestion {
  const { grain, measure, from, to, by, filter, fill, asOf } = options;
  const filters = filter.map((text) => {
    const [, dimension = '', value = ''] = /^([^=]+)=(.*)$/.exec(text) ?? [];
    if (dimension === '') throw new Fault('config_invalid', `--filter ${text}: expected DIMENSION=VALUE`);
    return { dimension, value };
  });
  const chosen: Record<string, string[]> = {};
  for (const { dimension, value } of filters) chosen[dimension] = [...(chosen[dimension] ?? []), value];
  return {
    ...(grain === undefined ? {} : { grain: grain as NonNullable<ValuesQuestion['grain']> }),
    ...(measure === undefined ? {} : { measures: words(measure) }),
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    ...(by === undefined ? {} : { by: words(by) }),
    ...(filters.length === 0 ? {} : { filter: chosen }),
    ...(fill === undefined ? {} : { fill: fill === 'empty' ? 'empty' : 'none' }),
    ...(asOf === undefined ? {} : { asOf }),
  };
}

function words(text: string): string[] {
  return text
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '' && one !== 'none');
}

async function values(
  connected: Connected,
  name: string,
  { options, output }: { options: KpiOptions; output: Output },
): Promise<void> {
  const format = options.format ?? (output.json ? 'json' : 'table');
  if (!['table', 'json', 'csv', 'ndjson', 'parquet', 'arrow'].includes(format))
    throw new Fault('config_invalid', `--format ${format} is not known; use table, json, csv, ndjson, parquet or arrow`);
  const rows: Record<string, unknown>[] = [];
  let freshness: KpiFreshness | null = null;
  // Named first, so that a KPI that is not there is told as such.
  await ask(connected, name, 'show', {});
  const own = { parquet: 'parquet', arrow: 'typed' }[format];
  const [what, question] = own === undefined ? ['values', { flat: format !== 'json' }] : [own, {}];
  let columns: readonly TypedColumn[] = [];
  const answer = connected.broker.bus.ask(
    `tributary.kpi.${name}.${what}`,
    { ...questionOf(options), ...question, reader: 'local' },
    { idleMs: 600_000 },
  );
  for await (const part of answer) {
    const one = part as Part;
    columns = one.columns ?? columns;
    if (one.bytes) process.stdout.write(one.bytes);
    rows.push(...(one.rows ?? []));
    freshness ??= one.freshness ?? null;
  }
  if (format === 'parquet') return;
  if (format === 'arrow')
    return void process.stdout.write((await arrow()).arrowStream(columns, rows, { kpi: name, ...freshness }));
  if (format === 'json') return output.value({ kpi: name, rows, freshness });
  if (format === 'ndjson') return rows.forEach((row) => output.value(row));
  tabulate(rows, format, output);
  if (format === 'table')
    process.stderr.write(
      `${rows.length} row(s). Complete to: ${freshness?.completeTo ?? 'nothing yet'}, age ${ageIn(freshness)}\n`,
    );
}

function tabulate(rows: readonly Readonly<Record<string, unknown>>[], format: string, output: Output): void {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = rows.map((row) => columns.map((column) => row[column]));
  if (format === 'csv') for (const line of [columns, ...cells]) output.line(csvLine(line));
  else
    output.line(
      table(
        columns,
        cells.map((line) => line.map(cell)),
      ),
    );
}

/** Rows behind a bucket, or revisions. */
async function listed(
  connected: Connected,
  name: string,
  { action, options, output }: { action: 'rows' | 'revisions'; options: KpiOptions; output: Output },
): Promise<void> {
  const question = { ...questionOf(options), ...(options.bucket === undefined ? {} : { bucket: options.bucket }) };
  const told = await ask<{ rows?: Record<string, unknown>[]; revisions?: Record<string, unknown>[]; more: boolean }>(
    connected,
    name,
    action,
    question,
  );
  if (output.json) return output.value(told);
  tabulate(told.rows ?? told.revisions ?? [], options.format ?? 'table', output);
  if (told.more) process.stderr.write('There are more.\n');
}

/** Tries definitions that are not applied. */
async function definitions(
  connected: Connected,
  action: 'preview' | 'validate',
  { options, output }: { options: KpiOptions; output: Output },
): Promise<void> {
  if (options.file.length === 0) throw new Fault('config_invalid', `kpi ${action} needs -f FILE`);
  const { configOf, readFiles } = await configReading();
  const { kpis } = configOf(await readFiles(options.file), { env: environment() });
  if (kpis.length === 0) throw new Fault('config_invalid', 'the files hold no document of kind: Kpi');
  for (const config of kpis) {
    const told = await askOne(
      connected.broker.bus,
      `tributary.kpi-engine.${config.engine}.${action}`,
      { config, ask: questionOf(options), reader: 'local' },
      { idleMs: 600_000 },
    );
    output.value(told);
  }
}
