import { readsTable } from '@tributary/config';
import { compareSourcePosition, formatLsn, keyColumns, Op, parseLsn, type StoredBatch } from '@tributary/core';
import { behind } from './flow-engine.ts';
import { between, loadView, type ViewInputs } from './load-view.ts';
import type { InputGroup } from './inputs.ts';
import { type InTransaction, type Output, type OutSection, shapeAlone } from './output.ts';
import { type Run, runsOf } from './run.ts';
import { START, type Vector } from './vector.ts';
import type { View } from './view.ts';

export interface ViewEngineOptions extends ViewInputs {
  readonly view: View;
  readonly output: Output;
}

/** Rows of a message; a larger transaction goes out in parts. */
const MESSAGE_ROWS = 4_000;

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

  /** Tables of the result. */
  get tables(): readonly string[] {
    return this.#options.view.results.map(({ name }) => name);
  }

  /**
   * Brings the state to where the changelog is, by reading the inputs again without writing anything. A state that is
   * ahead (the broker lost messages) or of other steps is begun anew.
   * @returns inputs whose history does not reach back to their beginning
   */
  load(from: Vector | null): Promise<string[]> {
    const { view, output } = this.#options;
    return loadView(view, this.#options, { from, target: output.vector });
  }

  #wants(input: string, table: string): boolean {
    return readsTable(this.#options.transform, input, table);
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
    for await (const batch of between(this.#options, input, { from: output.vector.get(input) ?? START, to: until })) {
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
      output.retell = await view.takeReshaped();
      await this.#tell(run, { input: group.input, vector });
      await output.stored;
      await view.commit(definition, output.vector);
      await this.retell();
    }
  }

  /** Tells anew the tables of the result that look different, and those that are there without a row. */
  async retell(): Promise<void> {
    const { retell } = this.#options.output;
    if (retell.length > 0) await this.publish(retell);
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
      // Rows that nothing tells apart cannot be swept: readers let go of all that they have.
      const reset = keyColumns(result.schema).length === 0;
      const mark = { table: result.name, reset, generation: output.nextGeneration() };
      output.read({ step: 'begin', ...mark }, []);
      for await (const { rows, section } of result.all()) {
        told += rows;
        const ordinals = Array.from({ length: rows }, (_, row) => row + 1);
        const made = { ...section, ordinals, transactions: ordinals.map(() => 0), old: null };
        output.read({ step: 'chunk', ...mark }, [made]);
        await output.stored;
      }
      if (i === chosen.length - 1) {
        output.rebuilding = false;
        output.retell = [];
      }
      output.read({ step: 'end', ...mark }, [shapeAlone(result.schema)]);
    }
    await output.stored;
    return { tables: chosen.map(({ name }) => name), rows: told };
  }
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
