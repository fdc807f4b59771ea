import { together } from '@tributary/cluster';
import { csvLine, Fault, shown } from '@tributary/core';
import { arrow } from '../arrow.ts';
import { connect, type Connected, type Where } from '../addresses.ts';
import { layoutOf, type ProjectionEntry, projectionSubject } from '../cluster.ts';
import { type Output, openProgress, table } from '../output.ts';

interface SnapshotPart {
  readonly done: boolean;
  readonly tables?: readonly string[];
  readonly rows?: number;
  readonly progress?: { readonly table: string; readonly rows: number; readonly fraction: number } | null;
}

/** Reads tables of a source again, reconciled with the stream. */
export async function snapshot(
  source: string,
  options: Where & { table?: string; where?: string },
  output: Output,
): Promise<void> {
  if (options.where !== undefined && options.table === undefined) throw new Fault('config_invalid', '--where needs --table');
  const { broker } = await connect(options);
  try {
    const progress = openProgress(output, `snapshot ${source}`);
    const question = { ...(options.table ? { table: options.table } : {}), ...(options.where ? { where: options.where } : {}) };
    let last: SnapshotPart | null = null;
    for await (const part of broker.bus.ask(`tributary.source.${source}.snapshot`, question, { idleMs: 600_000 })) {
      last = part as SnapshotPart;
      if (!last.done && last.progress) progress.at(Math.round(last.progress.fraction * 100), 100, last);
    }
    progress.end();
    if (output.json) output.value(last);
    else output.line(`Read ${last?.rows ?? 0} rows of ${last?.tables?.length ?? 0} table(s).`);
  } finally {
    await broker.close();
  }
}

interface ReplayPart {
  readonly projection: string;
  readonly messages: number;
  readonly of: number;
  readonly from: string;
  readonly kept: readonly string[];
}

/** Sets a sink's projections, or one of them, back to a place in history and follows them until they have caught up. */
export async function replay(name: string, options: Where & { from: string }, output: Output): Promise<void> {
  const connected = await connect(options);
  try {
    const { projections } = await layoutOf(connected);
    const chosen = projections.filter((one) => one.name === name || one.name.startsWith(`${name}/`));
    if (chosen.length === 0)
      throw new Fault(
        'not_found',
        `there is no projection ${name}. Projections: ${projections.map((one) => one.name).join(', ')}`,
      );
    const replayed: { projection: string; from: string; messages: number; kept: readonly string[] }[] = [];
    for (const one of chosen) {
      const last = await replayOne(connected, one, { from: options.from, output });
      if (!last) continue;
      const { from, messages, kept } = last;
      replayed.push({ projection: one.name, from, messages, kept });
      if (!output.json) tellReplayed(one.name, last, output);
    }
    if (output.json) output.value({ done: true, projections: chosen.map((one) => one.name), replayed });
  } finally {
    await connected.broker.close();
  }
}

function tellReplayed(name: string, { from, messages, kept }: ReplayPart, output: Output): void {
  output.line(`${name}: ${messages} messages applied again, from ${from === '0/0+0' ? 'the start' : from}.`);
  if (kept.length > 0)
    output.line(
      `  Left as they are, because their changes cannot be applied twice (no key, or rows that moved to another key): ${kept.join(', ')}. To rebuild these too: --from start`,
    );
}

/** All parts of one projection side by side; its progress is the sum of theirs. */
async function replayOne(
  { broker }: Connected,
  projection: ProjectionEntry,
  { from, output }: { from: string; output: Output },
): Promise<ReplayPart | null> {
  const progress = openProgress(output, `replay ${projection.name}`);
  const told = new Map<string, ReplayPart>();
  const replayPart = async (actor: string, signal: AbortSignal) => {
    const answer = broker.bus.ask(projectionSubject(actor, 'replay'), { from }, { idleMs: 600_000, signal });
    for await (const part of answer) {
      told.set(actor, part as ReplayPart);
      const sum = sumOf([...told.values()]);
      if (sum) progress.at(sum.messages, sum.of, part);
    }
  };
  const never = new AbortController().signal;
  await together(
    never,
    projection.actors.map((actor) => (signal) => replayPart(actor, signal)),
  );
  progress.end();
  return sumOf([...told.values()]);
}

function sumOf(parts: readonly ReplayPart[]): ReplayPart | null {
  return parts.reduce<ReplayPart | null>(
    (sum, part) =>
      sum && {
        ...sum,
        messages: sum.messages + part.messages,
        of: sum.of + part.of,
        kept: [...new Set([...sum.kept, ...part.kept])].toSorted(),
      },
    parts[0] ? { ...parts[0], messages: 0, of: 0 } : null,
  );
}

export async function compact(options: Where & { table?: string }, output: Output): Promise<void> {
  const connected = await connect(options);
  try {
    const { projections } = await layoutOf(connected);
    const lakes = projections.filter((one) => one.kind === 'lake').map((one) => one.name);
    for (const name of lakes) {
      const question = options.table ? { table: options.table } : {};
      for await (const _ of connected.broker.bus.ask(projectionSubject(name, 'compact'), question, { idleMs: 600_000 }));
      if (!output.json) output.line(`${name} is compacted.`);
    }
    if (output.json) output.value({ done: true, projections: lakes });
  } finally {
    await connected.broker.close();
  }
}

interface QueryPart {
  readonly columns?: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly Record<string, unknown>[];
  readonly freshness?: Record<string, { readonly completeTo: string | null }>;
}

export async function query(sql: string, options: Where & { format?: string; asOf?: string }, output: Output): Promise<void> {
  const format = options.format ?? (output.json ? 'json' : 'table');
  if (!['table', 'json', 'csv', 'arrow'].includes(format)) {
    const why = format === 'parquet' ? 'is not built yet' : 'is not known';
    throw new Fault('config_invalid', `--format ${format} ${why}; use table, json, csv or arrow`);
  }
  const { broker } = await connect(options);
  try {
    let answer: QueryPart = { rows: [] };
    const rows: Record<string, unknown>[] = [];
    const question = { sql, ...(options.asOf ? { asOf: options.asOf } : {}) };
    for await (const part of broker.bus.ask('tributary.query', question, { idleMs: 120_000 })) {
      const one = part as QueryPart;
      if (one.columns) answer = one;
      rows.push(...one.rows);
    }
    const { columns = [], freshness = {} } = answer;
    const names = columns.map((column) => column.name);
    if (format === 'json') output.value({ columns, rows, freshness });
    else if (format === 'arrow') process.stdout.write((await arrow()).arrowStream(columns, rows, { freshness }));
    else if (format === 'csv')
      for (const line of [names, ...rows.map((row) => names.map((name) => row[name]))]) output.line(csvLine(line));
    else {
      output.line(
        table(
          names,
          rows.map((row) => names.map((name) => shown(row[name]))),
        ),
      );
      const complete = Object.entries(freshness).map(([source, one]) => `${source} ${one.completeTo ?? 'nothing yet'}`);
      process.stderr.write(`${rows.length} row(s). Complete to: ${complete.join(', ')}\n`);
    }
  } finally {
    await broker.close();
  }
}
