import { type TransformConfig, wantsTable } from '@tributary/config';
import { type StoredBatch, type SnapshotMark, tableName } from '@tributary/core';
import { type Plans, targetNames } from './definition.ts';
import type { Flow } from './flow.ts';
import type { InputGroup } from './inputs.ts';
import type { Output, OutSection } from './output.ts';
import { type Run, runsOf } from './run.ts';
import type { InputPlace, Vector } from './vector.ts';

export interface FlowEngineOptions {
  readonly transform: TransformConfig;
  readonly plans: Plans;
  readonly flow: Flow;
  readonly output: Output;
}

/**
 * A transform that keeps nothing: transactions go out as they came in, one for one, and so do the marks of snapshots. For
 * that every table of the result must come from one table of one input.
 */
export class FlowEngine {
  readonly #options: FlowEngineOptions;
  #rows = 0;

  constructor(options: FlowEngineOptions) {
    this.#options = options;
  }

  get rows(): number {
    return this.#rows;
  }

  /** @throws StateNeeded before anything of the run that needs it went out */
  async apply({ input, batches }: InputGroup): Promise<void> {
    const { output, transform } = this.#options;
    for (const run of runsOf(batches, (table) => wantsTable(transform, input, table))) {
      const sections = await this.#sections(input, run);
      for (const { ops } of sections) this.#rows += ops.length;
      const vector = behind(output.vector, input, run.batches.at(-1) as StoredBatch);
      if (run.kind === 'stream') output.write({ ...run, sections }, run.more ? null : vector);
      else this.#read(input, run, { sections, vector });
    }
  }

  async #sections(input: string, run: Run): Promise<OutSection[]> {
    const { plans, flow } = this.#options;
    const sections: OutSection[] = [];
    for (const piece of run.pieces) {
      const plan = await plans.of(input, piece.schema, piece.version);
      sections.push(...(await flow.transform(piece, plan)));
    }
    return sections;
  }

  #read(input: string, { batches }: Run, { sections, vector }: { sections: readonly OutSection[]; vector: Vector }): void {
    const { output, transform } = this.#options;
    const mark = (batches[0] as StoredBatch).header.mark;
    output.advance(vector);
    // An epoch of an input begins: what must be read again comes behind it.
    if (!mark || mark.step === 'gap' || mark.step === 'chunk') {
      if (sections.length === 0) return;
      const chunk = mark?.step === 'chunk' ? this.#mark(mark, tableName((sections[0] as OutSection).schema)) : null;
      return output.read(chunk, sections);
    }
    if (!wantsTable(transform, input, mark.table)) return;
    for (const table of targetNames(transform, mark.table)) {
      const own = sections.filter(({ schema }) => tableName(schema) === table);
      output.read(this.#mark(mark, table), own);
    }
  }

  /** Generations count for the whole changelog. */
  #mark({ step, reset }: SnapshotMark, table: string): SnapshotMark {
    const { output } = this.#options;
    return { step, table, reset, generation: step === 'begin' ? output.nextGeneration() : output.generation };
  }
}

/** The vector with one input as far as a batch. */
export function behind(vector: Vector, input: string, { seq, header }: Pick<StoredBatch, 'seq' | 'header'>): Vector {
  const watermark = Math.max(header.watermark, vector.get(input)?.watermark ?? 0);
  const place: InputPlace = { seq, ...header.position, epoch: header.epoch, watermark };
  return new Map([...vector, [input, place]]);
}
