import type { Changelogs } from '@tributary/changelog';
import { lookupsOf, readsTable, type TransformConfig } from '@tributary/config';
import {
  askOne,
  type Bus,
  compareSourcePosition,
  Fault,
  type Position,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
} from '@tributary/core';
import { behind } from './flow-engine.ts';
import { runsOf } from './run.ts';
import { START, type Vector } from './vector.ts';
import type { View } from './view.ts';

/** Messages read between two commits, and applied together. */
const COMMIT_BATCHES = 200;
const GROUP_BYTES = 512 * 1024;
/** A source may have to read its tables first. */
export const ANSWER_MS = 600_000;

/** What a view is made of, and from where. */
export interface ViewInputs {
  readonly transform: TransformConfig;
  readonly definition: string;
  readonly inputs: readonly string[];
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly signal: AbortSignal;
}

/**
 * Brings a view to where `target` says, by reading the inputs. A view that is ahead is begun anew.
 * @param from where it stands; null = empty
 * @returns inputs whose history does not reach back to their beginning
 */
export async function loadView(
  view: View,
  given: ViewInputs,
  { from, target }: { from: Vector | null; target: Vector },
): Promise<string[]> {
  const { transform, definition, bus } = given;
  const inputs = lookedUpFirst(given);
  const usable =
    from !== null && inputs.every((input) => compareSourcePosition(from.get(input) ?? START, target.get(input) ?? START) <= 0);
  if (from && !usable) await view.empty();
  for (const table of view.unknown()) await view.know(table, await shapeOf(bus, table));
  const trimmed: string[] = [];
  let held: Vector = usable ? from : new Map();
  await view.begin();
  for (const input of inputs) {
    const until = target.get(input) ?? START;
    let group: StoredBatch[] = [];
    let bytes = 0;
    let batches = 0;
    let first = true;
    const apply = async () => {
      for (const run of runsOf(group, (table) => readsTable(transform, input, table))) await view.apply(input, run);
      group = [];
      bytes = 0;
    };
    for await (const batch of between(given, input, { from: held.get(input) ?? START, to: until })) {
      if (first && !held.has(input) && compareSourcePosition(batch.header.follows, START) !== 0) trimmed.push(input);
      first = false;
      group.push(batch);
      bytes += batch.bytes;
      held = behind(held, input, batch);
      const due = ++batches % COMMIT_BATCHES === 0 && !batch.header.more;
      if (due || bytes >= GROUP_BYTES) await apply();
      if (!due) continue;
      await view.commit(definition, held);
      await view.begin();
      await view.note();
    }
    await apply();
  }
  await view.commit(definition, target);
  await view.takeReshaped();
  return trimmed;
}

/** Rows that come after what they look up are computed once. */
function lookedUpFirst({ transform, inputs }: ViewInputs): string[] {
  const looked = new Set(lookupsOf(transform).map((table) => table.split('.')[0] as string));
  return inputs.toSorted((a, b) => Number(looked.has(b)) - Number(looked.has(a)));
}

/** What lies behind `from` in an input, up to and with `to`. */
export async function* between(
  { transform, changelogs, signal }: Pick<ViewInputs, 'transform' | 'changelogs' | 'signal'>,
  input: string,
  { from, to }: { from: Position; to: SourcePosition },
): AsyncGenerator<StoredBatch> {
  if (compareSourcePosition(from, to) >= 0) return;
  const wants = (table: string) => readsTable(transform, input, table);
  for await (const batch of changelogs.read(input, { after: from, signal, wants })) {
    const place = compareSourcePosition(batch.header.position, to);
    if (place <= 0) yield batch;
    if (place >= 0) break;
  }
  signal.throwIfAborted();
}

/** What a table that is looked up in looks like, before the first row of it was read. */
async function shapeOf(bus: Bus, table: string): Promise<TableSchema> {
  const [source, name] = table.split(/\.(.*)/) as [string, string];
  const question = { shapes: [name] };
  const { shapes = [] } = await askOne<{ shapes?: readonly TableSchema[] }>(bus, `tributary.source.${source}.barrier`, question, {
    idleMs: ANSWER_MS,
  });
  const [shape] = shapes;
  if (!shape) throw new Fault('config_invalid', `source ${source} has no captured table ${name} to look up in`);
  return shape;
}
