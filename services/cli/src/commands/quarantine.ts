import { changesOf, type DeadLetter } from '@tributary/changelog';
import { Fault, formatSourcePosition } from '@tributary/core';
import { connect, type Connected, type Where } from '../addresses.ts';
import { projectionSubject } from '../cluster.ts';
import { type Output, table } from '../output.ts';

export interface QuarantineOptions extends Where {
  /** Print the rows too. */
  readonly rows?: boolean;
}

/** What stands in quarantine of one table. */
interface Quarantined {
  readonly projection: string;
  readonly table: string;
  readonly batches: number;
  readonly rows: number;
  readonly since: string;
  readonly reason: DeadLetter['reason'];
}

const ACTIONS = ['list', 'show', 'retry', 'drop'] as const;

/** Dead letters: lists and shows them, takes them back in order, or gives them up. */
export async function quarantine(
  asked: string,
  { projection, name }: { projection: string | undefined; name: string | undefined },
  { options, output }: { options: QuarantineOptions; output: Output },
): Promise<void> {
  const action = ACTIONS.find((one) => one === asked);
  if (!action) throw new Fault('config_invalid', `quarantine ${asked}: expected ${ACTIONS.join(', ')}`);
  // Events of whole transactions are of no single table: `*`.
  const chosen = name === undefined || name === '*' || name.includes('.') ? name : `public.${name}`;
  if (action !== 'list' && projection === undefined)
    throw new Fault('config_invalid', `quarantine ${action} needs a projection, such as ods/shop (see: quarantine list)`);
  if (action === 'drop' && chosen === undefined) throw new Fault('config_invalid', 'quarantine drop needs a table');
  const connected = await connect(options);
  try {
    const letters = await connected.broker.changelogs.deadLetters.list(projection, chosen);
    if (action === 'list') return list(letters, output);
    if (letters.length === 0)
      throw new Fault('not_found', `nothing is in quarantine of ${[projection, chosen].filter(Boolean).join(' ')}`);
    if (action === 'show') return await show(connected, letters, { rows: options.rows === true, output });
    return await settle(connected, { action, projection: projection as string, table: chosen }, output);
  } finally {
    await connected.broker.close();
  }
}

function list(letters: readonly DeadLetter[], output: Output): void {
  const tables = new Map<string, Quarantined>();
  for (const one of letters) {
    const id = `${one.projection} ${one.table}`;
    const known = tables.get(id);
    tables.set(id, {
      projection: one.projection,
      table: one.table,
      batches: (known?.batches ?? 0) + 1,
      rows: (known?.rows ?? 0) + one.rows,
      since: known?.since ?? formatSourcePosition(one.position),
      reason: known?.reason ?? one.reason,
    });
  }
  if (output.json) return output.value([...tables.values()]);
  if (tables.size === 0) return output.line('Nothing is in quarantine.');
  output.line(
    table(
      ['projection', 'table', 'batches', 'rows', 'since', 'reason'],
      [...tables.values()].map((one) => [one.projection, one.table, one.batches, one.rows, one.since, one.reason?.message]),
    ),
  );
}

/** Facts of every letter; rows only where they are asked for, because this is an operator's command. */
async function show(
  { broker }: Connected,
  letters: readonly DeadLetter[],
  { rows, output }: { rows: boolean; output: Output },
): Promise<void> {
  for (const letter of letters) {
    const { position, at, event, ...rest } = letter;
    const named = event ? { id: event.id } : {};
    const facts = { ...rest, ...named, position: formatSourcePosition(position), at: new Date(at).toISOString() };
    const { deadLetters } = broker.changelogs;
    const changes = rows && !event ? [...changesOf(await deadLetters.read(letter))] : [];
    const body = rows && event ? await deadLetters.readEvent(letter) : null;
    if (output.json) output.value(rows ? { ...facts, ...(body === null ? { changes } : { event: body }) } : facts);
    else {
      output.line(`${facts.projection} ${facts.table} at ${facts.position}: ${facts.rows} row(s), put aside ${facts.at}`);
      if (facts.reason) output.line(`  ${facts.reason.kind}: ${facts.reason.message}`);
      if (body !== null) output.line(`  ${body}`);
      for (const { op, key, before, after } of changes) output.line(`  ${JSON.stringify({ op, key, before, after })}`);
    }
  }
}

async function settle(
  { broker }: Connected,
  { action, projection, table: name }: { action: 'retry' | 'drop'; projection: string; table: string | undefined },
  output: Output,
): Promise<void> {
  const question = { do: action, ...(name === undefined ? {} : { table: name }) };
  const settled: { projection: string; table: string; batches: number; unit?: 'events' }[] = [];
  for await (const part of broker.bus.ask(projectionSubject(projection, 'quarantine'), question, { idleMs: 600_000 })) {
    const one = part as (typeof settled)[number];
    settled.push(one);
    if (output.json) continue;
    if (one.unit === 'events') {
      const what = action === 'retry' ? 'were sent' : 'are GIVEN UP: their receiver never gets them, unless by a replay';
      output.line(`${one.projection}: ${one.batches} event(s) of ${one.table} ${what}.`);
    } else if (action === 'retry') output.line(`${one.projection}: ${one.batches} batches of ${one.table} are applied.`);
    else
      output.line(
        `${one.projection}: ${one.batches} batches of ${one.table} are GIVEN UP. The table differs from its source until it is read again: tributary verify --repair --table ${one.table}`,
      );
  }
  if (output.json) output.value({ done: true, action, tables: settled });
}
