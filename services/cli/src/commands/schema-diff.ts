import type { Changelogs } from '@tributary/changelog';
import { Fault, ORIGIN } from '@tributary/core';
import { stopSignal } from '@tributary/ops';
import { connect, type Where } from '../addresses.ts';
import { openProgress, type Output, table } from '../output.ts';
import { type SchemaChange, SchemaHistory, type SchemaVersion } from '../schema-history.ts';

interface TableHistory {
  readonly source: string;
  readonly table: string;
  readonly versions: readonly SchemaVersion[];
}

/**
 * Shows how the schema of every table came to be what it is, from the changelogs themselves: each version with the place and time
 * of its first row. Reads a changelog once; what retention removed is not told.
 * @param what `SOURCE` or `SOURCE.SCHEMA.TABLE` (the schema may be left out: public); absent = everything
 */
export async function schemaDiff(what: string | undefined, options: Where, output: Output): Promise<void> {
  const [source, ...rest] = what?.split('.') ?? [];
  const wanted = rest.length === 1 ? `public.${rest[0]}` : rest.join('.');
  const { broker } = await connect(options);
  try {
    const known = await broker.changelogs.list();
    if (source !== undefined && !known.includes(source))
      throw new Fault('not_found', `there is no changelog ${source}. Changelogs: ${known.toSorted().join(', ') || 'none'}`);
    const tables: TableHistory[] = [];
    for (const name of source === undefined ? known.toSorted() : [source])
      tables.push(...(await historyOf(broker.changelogs, { source: name, wanted }, output)));
    if (wanted && tables.length === 0) throw new Fault('not_found', `changelog ${source} holds no row of ${wanted}`);
    if (output.json) output.value({ tables });
    else for (const one of tables) show(one, output);
  } finally {
    await broker.close();
  }
}

async function historyOf(
  changelogs: Changelogs,
  { source, wanted }: { source: string; wanted: string },
  output: Output,
): Promise<TableHistory[]> {
  const status = await changelogs.status(source);
  if (!status || status.messages === 0) return [];
  const { firstSeq, lastSeq } = status;
  const history = new SchemaHistory();
  const progress = openProgress({ ...output, json: false }, source);
  const wants = wanted ? (name: string) => name === wanted : () => true;
  for await (const batch of changelogs.read(source, { after: ORIGIN, signal: stopSignal(), wants })) {
    history.see(batch);
    progress.at(batch.seq - firstSeq, lastSeq - firstSeq, null);
    if (batch.seq >= lastSeq) break;
  }
  progress.end();
  return history.tables().map((one) => ({ source, ...one }));
}

function show({ source, table: name, versions }: TableHistory, output: Output): void {
  output.line(`${source}.${name}`);
  const rows = versions.flatMap(({ at, position, columns, key, changes }, i) => {
    const told =
      i === 0
        ? [`${columns.map((column) => `${column.name} ${column.type}`).join(', ')}; ${keyText(key)}`]
        : changes.map(changeText);
    return told.map((text, n) => (n === 0 ? [at, `${position.lsn}+${position.ordinal}`, text] : ['', '', text]));
  });
  output.line(`${table(['since', 'position', 'schema'], rows)}\n`);
}

function changeText(change: SchemaChange): string {
  switch (change.change) {
    case 'added':
      return `+ ${change.column} ${change.type}`;
    case 'dropped':
      return `- ${change.column} ${change.type}`;
    case 'retyped':
      return `~ ${change.column} ${change.from} -> ${change.to}`;
    case 'key':
      return `~ ${keyText(change.from)} -> ${keyText(change.to)}`;
    case 'identity':
      return `~ replica identity ${change.from} -> ${change.to}`;
  }
}

function keyText(key: readonly string[]): string {
  return key.length === 0 ? 'no key' : `key (${key.join(', ')})`;
}
