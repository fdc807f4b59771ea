import type { ChangelogOptions, Changelogs, ChangelogWriter } from '@tributary/changelog';
import type { Actor } from '@tributary/cluster';
import { readsTable, type TransformConfig } from '@tributary/config';
import { type Bus, type Clock, epochOf, Fault, formatLsn, LIMITS, type Position, type Random } from '@tributary/core';
import { bridge } from '@tributary/projection';
import { serveCommands } from './commands.ts';
import { definitionOf } from './definition.ts';
import { Engines, type Running } from './engines.ts';
import { StateNeeded } from './flow.ts';
import { type InputGroup, Inputs } from './inputs.ts';
import { Output } from './output.ts';
import { ViewEngine } from './view-engine.ts';
import { type InputPlace, type OutputState, readVector, watermarkOf } from './vector.ts';

export interface TransformOptions {
  readonly config: TransformConfig;
  /** Names of the changelogs it reads. */
  readonly inputs: readonly string[];
  readonly changelogs: Changelogs;
  readonly changelog: ChangelogOptions;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly random: Random;
  /** Where states are kept. */
  readonly folder: string;
  readonly warn: (facts: object, message: string) => void;
}

/** Changelog of one input transformed together. */
const GROUP_BYTES = 512 * 1024;
/** How often the changelog says how far the inputs are, while no row goes out. */
const BEAT_MS = 500;

/**
 * Reads changelogs, sends their rows through the steps, and writes a changelog: exactly once, because every message it
 * writes says how far its inputs are in it. A new leader reads the last message and goes on from there; whoever led before
 * is refused (I2, I3).
 */
export class TransformActor implements Actor {
  readonly #options: TransformOptions;
  #output: Output | null = null;
  #running: Running | null = null;
  #lagMs = 0;
  #appliedAt = 0;
  #failure: { readonly error: unknown } | null = null;
  #inputs: Inputs | null = null;
  /** Tables of the result that are to be told anew. */
  #asked = new Set<string>();
  #waiters: { readonly reached: () => boolean; readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];

  constructor(options: TransformOptions) {
    this.#options = options;
  }

  facts(): Record<string, unknown> {
    const vector = this.#output?.vector ?? new Map<string, InputPlace>();
    return {
      changelog: this.#options.inputs.join(', '),
      inputs: Object.fromEntries([...vector].map(([name, { seq, lsn }]) => [name, { seq, lsn: formatLsn(lsn) }])),
      watermark: watermarkOf(vector),
      lagMs: this.#lagMs,
      appliedAt: this.#appliedAt,
      applied: this.#running?.engine.rows ?? 0,
      state: this.#output?.view ?? false,
    };
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { config, changelogs, changelog } = this.#options;
    const writer = await changelogs.write(config.name, changelog);
    const stops: (() => Promise<void>)[] = [];
    const inputs = new Inputs({ changelogs, groupBytes: GROUP_BYTES, wants: (input, table) => readsTable(config, input, table) });
    this.#inputs = inputs;
    const stop = () => inputs.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const output = this.#open(writer);
      await output.stored;
      await this.#seat(output);
      stops.push(...(await this.#serve(output, signal)));
      const engines = new Engines(this.#options);
      this.#running = await engines.open(output, signal);
      for (const [input, place] of output.vector) await inputs.follow(input, place);
      ready();
      await this.#follow({ output, writer, engines }, signal);
    } finally {
      signal.removeEventListener('abort', stop);
      for (const one of stops) await one();
      for (const waiter of this.#waiters.splice(0)) waiter.reject(new Fault('not_found', `transform ${config.name} stopped`));
      await inputs.close();
      await writer.close().catch(() => {});
      this.#running?.database.close();
    }
  }

  #open(writer: ChangelogWriter): Output {
    const { config, inputs, clock, random } = this.#options;
    const state = (writer.last?.state ?? null) as OutputState | null;
    const definition = definitionOf(config);
    const fail = (error: unknown) => {
      this.#failure ??= { error };
      this.#inputs?.stop();
    };
    const epoch = epochOf(config.name, random.token(6));
    const options = { name: config.name, definition, writer, clock, epoch, fail };
    this.#output = new Output(options, readVector(state?.inputs, inputs));
    return this.#output;
  }

  /** The same places, by the sequences of the inputs as they are now: one may have been lost and begun again. */
  async #seat(output: Output): Promise<void> {
    const { changelogs } = this.#options;
    const seated = new Map<string, InputPlace>();
    for (const [input, place] of output.vector) seated.set(input, { ...place, seq: await changelogs.reached(input, place) });
    output.advance(seated);
  }

  async #follow(
    { output, writer, engines }: { output: Output; writer: ChangelogWriter; engines: Engines },
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      const group = await this.#next(output, signal);
      if (this.#failure) throw this.#failure.error;
      if (!group) return;
      if (group === 'nudged') {
        await this.#retell(output);
        this.#answer();
        continue;
      }
      try {
        await this.#running?.engine.apply(group);
      } catch (error) {
        if (!(error instanceof StateNeeded)) throw error;
        await this.#keep(error, { output, engines }, signal);
        continue;
      }
      this.#applied(group);
      await this.#retell(output);
      if (writer.pendingBytes > LIMITS.pendingBytes) await writer.belowPending(LIMITS.pendingBytes / 2);
      if (output.resting && !output.level && output.sinceSentMs >= BEAT_MS) output.beat();
      this.#answer();
    }
  }

  /** Who keeps the rows tells what is another than before: what was read again, and is the same, must be asked for. */
  async #retell(output: Output): Promise<void> {
    if (this.#asked.size === 0 || !output.resting) return;
    const engine = this.#running?.engine;
    if (engine instanceof ViewEngine) {
      const known = engine.tables;
      output.retell = [...this.#asked].filter((table) => known.includes(table));
      await engine.retell();
    }
    this.#asked.clear();
  }

  /** From here on with the rows of the inputs: what came cannot be told without them. It is read again. */
  async #keep(why: StateNeeded, { output, engines }: { output: Output; engines: Engines }, signal: AbortSignal): Promise<void> {
    const { config, warn } = this.#options;
    warn({ transform: config.name }, `${why.message}: it is loaded from the history of the inputs`);
    output.abandon();
    this.#running?.database.close();
    this.#running = null;
    this.#running = await engines.view(output, signal);
    for (const [input, place] of output.vector) await this.#inputs?.follow(input, place);
  }

  /** The next group; an input whose history is gone is read again from a snapshot of its source. */
  async #next(output: Output, signal: AbortSignal): Promise<InputGroup | 'nudged' | null> {
    const inputs = this.#inputs as Inputs;
    try {
      return await inputs.next();
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== 'history_trimmed' || signal.aborted) throw error;
      const source = String(error.facts['source']);
      const { changelogs, bus } = this.#options;
      let to: Position | null = null;
      const position = async () => output.vector.get(source) as Position;
      await bridge({ position, rewind: async (rewind) => void (to = rewind.to) }, { source, changelogs, bus }, signal);
      const place = { ...(to as unknown as Position), watermark: 0 };
      output.advance(new Map([...output.vector, [source, place]]));
      await inputs.follow(source, place);
      return inputs.next();
    }
  }

  #applied({ batches }: InputGroup): void {
    const { clock } = this.#options;
    const committedAt = batches.at(-1)?.header.transactions.at(-1)?.committedAt;
    this.#appliedAt = clock.now();
    if (committedAt !== undefined) this.#lagMs = Math.max(0, this.#appliedAt - committedAt / 1_000);
  }

  #serve(output: Output, signal: AbortSignal): Promise<(() => Promise<void>)[]> {
    const { config, inputs, changelogs, bus } = this.#options;
    const settled = async (reached: ReadonlyMap<string, number>) => {
      await this.#until(() => output.level && [...reached].every(([input, seq]) => (output.vector.get(input)?.seq ?? 0) >= seq));
      return output.stored;
    };
    const retold = async (tables: readonly string[]) => {
      if (!output.view) return;
      for (const table of tables) this.#asked.add(table);
      this.#inputs?.nudge();
      await this.#until(() => this.#asked.size === 0);
      await output.stored;
    };
    return serveCommands({ config, inputs, changelogs, bus, signal, settled, retold });
  }

  /** Resolves when something holds, which is looked at after every group. */
  #until(reached: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiters.push({ reached, resolve, reject });
      this.#answer();
    });
  }

  #answer(): void {
    const output = this.#output;
    if (output && this.#waiters.length > 0 && output.resting && !output.level) output.beat();
    this.#waiters = this.#waiters.filter((waiter) => {
      if (!waiter.reached()) return true;
      waiter.resolve();
      return false;
    });
  }
}
