import type { Changelogs } from '@tributary/changelog';
import { lookupsOf, readsTable, type TransformConfig } from '@tributary/config';
import {
  compareSourcePosition,
  formatLsn,
  Op,
  parseLsn,
  type Position,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
} from '@tributary/core';
import { behind } from './flow-engine.ts';
import type { InputGroup } from './inputs.ts';
import type { InTransaction, Output, OutSection } from './output.ts';
import { type Run, runsOf } from './run.ts';
import { START, type Vector } from './vector.ts';
import type { View } from './view.ts';

export interface ViewEngineOptions {
  readonly transform: TransformConfig;
  readonly definition: string;
  readonly inputs: readonly string[];
  readonly changelogs: Changelogs;
  readonly view: View;
  readonly output: Output;
  readonly signal: AbortSignal;
  /** Shape of a table (`SOURCE.SCHEMA.TABLE`) that is looked up in. */
  readonly shapeOf: (table: string) => Promise<TableSchema>;
}

/** Rows of a message; a larger transaction goes out in parts. */
const MESSAGE_ROWS = 4_000;
/** Messages read between two commits while the state is loaded. */
const COMMIT_BATCHES = 200;

/**
 * A transform that keeps the rows of its inputs. What a unit of them (a group of the stream, one snapshot message, one large
 * transaction) makes another in the result goes out as one transaction; then, once the broker has it, the state is committed
 * with the place that the message names. So the state is never ahead of the changelog, and behind it by one unit at most.
 */
export class ViewEngine {
  readonly #options: ViewEngineOptions;
  #rows = 0;
  /** Runs of a unit that is not whole yet. */
  #begun = false;

  constructor(options: ViewEngineOptions) {
    this.#options = options;
  }

  get rows(): number {
    return this.#rows;
  }

  /**
   * Brings the state to where the changelog is, by reading the inputs again without writing anything. A state that is
   * ahead (the broker lost messages) or of other steps is begun anew.
   * @returns inputs whose history does not reach back to their beginning
   */
  async load(from: Vector | null): Promise<string[]> {
    const { view, output, definition, shapeOf } = this.#options;
    const target = output.vector;
    const inputs = this.#lookedUpFirst();
    const usable = from !== null && inputs.every((input) => isBefore(from.get(input) ?? START, target.get(input) ?? START));
    if (from && !usable) await view.empty();
    for (const table of view.unknown()) await view.know(table, await shapeOf(table));
    const trimmed: string[] = [];
    let held: Vector = usable ? from : new Map();
    await view.begin();
    for (const input of inputs) {
      const until = target.get(input) ?? START;
      let batches = 0;
      let first = true;
      for await (const batch of this.#between(input, held.get(input) ?? START, until)) {
        if (first && !held.has(input) && compareSourcePosition(batch.header.follows, START) !== 0) trimmed.push(input);
        first = false;
        for (const run of runsOf([batch], (table) => this.#wants(input, table))) await view.apply(input, run);
        held = behind(held, input, batch);
        if (++batches % COMMIT_BATCHES !== 0 || batch.header.more) continue;
        await view.commit(definition, held);
        await view.begin();
        await view.note();
      }
    }
    await view.commit(definition, target);
    view.takeReshaped();
    return trimmed;
  }

  /** Rows that come after what they look up are computed once. */
  #lookedUpFirst(): string[] {
    const { transform, inputs } = this.#options;
    const looked = new Set(lookupsOf(transform).map((table) => table.split('.')[0] as string));
    return inputs.toSorted((a, b) => Number(looked.has(b)) - Number(looked.has(a)));
  }

  #wants(input: string, table: string): boolean {
    return readsTable(this.#options.transform, input, table);
  }

  /** What lies behind `from` in an input, up to and with `to`. */
  async *#between(input: string, from: Position, to: SourcePosition): AsyncGenerator<StoredBatch> {
    const { changelogs, signal } = this.#options;
    if (compareSourcePosition(from, to) >= 0) return;
    const wants = (table: string) => this.#wants(input, table);
    for await (const batch of changelogs.read(input, { after: from, signal, wants })) {
      const place = compareSourcePosition(batch.header.position, to);
      if (place <= 0) yield batch;
      if (place >= 0) break;
    }
    signal.throwIfAborted();
  }

  /**
   * Writes a large transaction on that the last leader began: of the same unit, which its parts name. Where the input was cut
   * anew since, so that no message ends there any more, it is told again as a whole.
   */
  async resume(): Promise<void> {
    const { view, output, definition } = this.#options;
    if (output.resting) return;
    const [input = '', lsn = '0/0', ordinal = 0] = output.until ?? [];
    const until = { lsn: parseLsn(lsn), ordinal };
    await view.begin();
    await view.note();
    let last: StoredBatch | null = null;
    for await (const batch of this.#between(input, output.vector.get(input) ?? START, until)) {
      for (const run of runsOf([batch], (table) => this.#wants(input, table))) await view.apply(input, run);
      last = batch;
    }
    if (!last || compareSourcePosition(last.header.position, until) !== 0) output.abandon();
    if (last) await this.#tell(lastRun(last), { input, vector: behind(output.vector, input, last) });
    await output.stored;
    await view.commit(definition, output.vector);
  }

  async apply(group: InputGroup): Promise<void> {
    const { view, output, definition } = this.#options;
    const runs = runsOf(group.batches, (table) => this.#wants(group.input, table));
    for (const run of runs) {
      if (run.pieces.length === 0 && !marks(run) && !this.#begun) {
        output.advance(behind(output.vector, group.input, run.batches.at(-1) as StoredBatch));
        continue;
      }
      if (!this.#begun) {
        await view.begin();
        await view.note();
        this.#begun = true;
      }
      await view.apply(group.input, run);
      if (run.more) continue;
      this.#begun = false;
      const vector = behind(output.vector, group.input, run.batches.at(-1) as StoredBatch);
      await this.#tell(run, { input: group.input, vector });
      await output.stored;
      await view.commit(definition, output.vector);
      const reshaped = view.takeReshaped();
      if (reshaped.length > 0) await this.publish(reshaped);
    }
  }

  /** One transaction of the result; of rows that a snapshot read, messages without one. Only the last message says how far it is. */
  async #tell(
    run: Pick<Run, 'kind' | 'batches' | 'transactions'>,
    { input, vector }: { input: string; vector: Vector },
  ): Promise<void> {
    const { view, output } = this.#options;
    const { position, watermark } = (run.batches.at(-1) as StoredBatch).header;
    const transaction: InTransaction = run.transactions.at(-1) ?? { xid: 0, committedAt: watermark };
    output.until = [input, formatLsn(position.lsn), position.ordinal];
    let waiting: OutSection[] = [];
    let continues = false;
    const send = (more: boolean) => {
      if (run.kind === 'stream') {
        output.write({ transactions: [transaction], sections: waiting, continues, more }, more ? null : vector);
      } else {
        if (!more) output.advance(vector);
        if (waiting.length > 0) output.read(null, waiting);
      }
      waiting = [];
      continues = true;
    };
    let ordinal = 1;
    for (const result of view.results) {
      for await (const { rows, section } of result.changes()) {
        if (waiting.length > 0 && rowsOf(waiting) + rows > MESSAGE_ROWS) send(true);
        const ordinals = Array.from({ length: rows }, (_, i) => ordinal + i);
        const ops = run.kind === 'read' ? section.ops.map(readOp) : section.ops;
        waiting.push({ ...section, ops, ordinals, transactions: ordinals.map(() => 0), old: null });
        ordinal += rows;
        this.#rows += rows;
      }
    }
    send(false);
  }

  /** Tells the result, or chosen tables of it, as a snapshot: what is not in it is swept. */
  async publish(tables: readonly string[] | null): Promise<{ tables: string[]; rows: number }> {
    const { view, output } = this.#options;
    const chosen = view.results.filter(({ name }) => tables === null || tables.includes(name));
    let told = 0;
    for (const [i, result] of chosen.entries()) {
      const mark = { table: result.name, reset: false, generation: output.nextGeneration() };
      output.read({ step: 'begin', ...mark }, []);
      for await (const { rows, section } of result.all()) {
        told += rows;
        const ordinals = Array.from({ length: rows }, (_, row) => row + 1);
        const made = { ...section, ordinals, transactions: ordinals.map(() => 0), old: null };
        output.read({ step: 'chunk', ...mark }, [made]);
        await output.stored;
      }
      if (i === chosen.length - 1) output.rebuilding = false;
      output.read({ step: 'end', ...mark }, []);
    }
    await output.stored;
    return { tables: chosen.map(({ name }) => name), rows: told };
  }
}

function isBefore(a: SourcePosition, b: SourcePosition): boolean {
  return compareSourcePosition(a, b) <= 0;
}

/** The run that ends with a batch, without its rows. */
function lastRun(batch: StoredBatch): Pick<Run, 'kind' | 'batches' | 'transactions'> {
  return { kind: batch.header.kind, batches: [batch], transactions: batch.header.transactions };
}

function marks({ batches }: Run): boolean {
  return batches.some(({ header }) => header.mark !== null);
}

function rowsOf(sections: readonly OutSection[]): number {
  return sections.reduce((sum, { ops }) => sum + ops.length, 0);
}

function readOp(op: number): number {
  return op === Op.created || op === Op.updated ? Op.read : op;
}
