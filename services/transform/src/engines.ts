import type { Changelogs } from '@tributary/changelog';
import { lookupsOf, type TransformConfig } from '@tributary/config';
import { type Bus, describeError } from '@tributary/core';
import type { Database } from '@tributary/duckdb';
import { definitionOf } from './definition.ts';
import { connect, machineryOf } from './engine.ts';
import { Flow } from './flow.ts';
import { FlowEngine } from './flow-engine.ts';
import { ANSWER_MS } from './load-view.ts';
import type { Output } from './output.ts';
import { openMemory, openState, removeState } from './state-file.ts';
import { View } from './view.ts';
import { ViewEngine } from './view-engine.ts';

export interface EnginesOptions {
  readonly config: TransformConfig;
  readonly inputs: readonly string[];
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  /** Where states are kept. */
  readonly folder: string;
  readonly warn: (facts: object, message: string) => void;
}

/** An engine and the database it runs on. */
export interface Running {
  readonly engine: FlowEngine | ViewEngine;
  readonly database: Database;
}

/**
 * Must the rows of the inputs be kept? Where something is looked up, yes: rows of either side may come first. Where several tables of inputs make one of the result, yes: which of two rows with
 * one key counts, and what is left when one goes, is known from nothing else. What is found out from rows (unchanged TOAST, a
 * key that does not follow) is said by {@link StateNeeded}.
 */
function keeps({ from, to, steps }: TransformConfig, inputs: readonly string[]): boolean {
  if (lookupsOf({ steps }).length > 0) return true;
  const last = steps.at(-1)?.kind;
  const named = to !== undefined || last === 'route' || last === 'split';
  const several = from.length > 1 || from.some((pattern) => pattern.split('.').length < 3 || pattern.includes('*'));
  return inputs.length > 1 || (named && several);
}

/** Opens what a transform runs on. */
export class Engines {
  readonly #options: EnginesOptions;

  constructor(options: EnginesOptions) {
    this.#options = options;
  }

  /**
   * What goes on where the changelog ends; the result of other steps is told anew first, from the history of the inputs.
   * @throws Fault as changelogs and DuckDB do
   */
  async open(output: Output, signal: AbortSignal): Promise<Running> {
    const { config, inputs } = this.#options;
    if (output.view || keeps(config, inputs)) return this.view(output, signal);
    if (output.rebuilding) await this.rebuild(output, signal);
    const database = await openMemory();
    try {
      const { plans, evaluator } = machineryOf(config, await connect(database));
      return { engine: new FlowEngine({ transform: config, output, plans, flow: new Flow(evaluator) }), database };
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** With the rows of the inputs, as they were where the changelog ends. */
  async view(output: Output, signal: AbortSignal): Promise<Running> {
    const { config, folder } = this.#options;
    const database = await openState(folder, config.name);
    try {
      const engine = await this.#viewOn(database, output, signal);
      output.view = true;
      if (output.rebuilding) await engine.publish(null);
      else await engine.resume();
      await engine.retell();
      return { engine, database };
    } catch (error) {
      database.close();
      throw error;
    }
  }

  /** Tells the whole result from the history of the inputs, up to where the changelog is, without keeping rows for it. */
  async rebuild(output: Output, signal: AbortSignal): Promise<{ tables: string[]; rows: number }> {
    const { config, folder } = this.#options;
    const scratch = `${config.name}.rebuild`;
    await removeState(folder, scratch);
    const database = await openState(folder, scratch);
    try {
      const engine = await this.#viewOn(database, output, signal);
      return await engine.publish(null);
    } finally {
      database.close();
      await removeState(folder, scratch);
    }
  }

  async #viewOn(database: Database, output: Output, signal: AbortSignal): Promise<ViewEngine> {
    const { config, inputs, changelogs, bus } = this.#options;
    const duck = await connect(database);
    const definition = definitionOf(config);
    const machinery = machineryOf(config, duck);
    const { view, vector } = await View.open(duck, { transform: config, machinery, definition, inputs });
    const engine = new ViewEngine({ transform: config, definition, inputs, changelogs, bus, view, output, signal });
    for (const input of await engine.load(vector)) this.#askAgain(input);
    return engine;
  }

  /** History that is gone is made up for by a snapshot: it comes like any other change. */
  #askAgain(input: string): void {
    const { bus, warn, config } = this.#options;
    const ask = async () => {
      for await (const _ of bus.ask(`tributary.source.${input}.snapshot`, {}, { idleMs: ANSWER_MS }));
    };
    const names = { transform: config.name, input };
    warn(names, 'the history of an input does not reach back to its beginning: its source is asked for a snapshot');
    ask().catch((error: unknown) => warn({ ...names, error: describeError(error) }, 'no snapshot came'));
  }
}
