import type { ChangelogOptions, Changelogs, ChangelogWriter } from '@tributary/changelog';
import type { Actor } from '@tributary/cluster';
import { type TransformConfig, wantsTable } from '@tributary/config';
import { type Bus, type Clock, epochOf, Fault, formatLsn, LIMITS, type Position, type Random } from '@tributary/core';
import { Database } from '@tributary/duckdb';
import { bridge } from '@tributary/projection';
import { serveCommands } from './commands.ts';
import { definitionOf } from './definition.ts';
import { connect, machineryOf } from './engine.ts';
import { Flow } from './flow.ts';
import { FlowEngine } from './flow-engine.ts';
import { type InputGroup, Inputs } from './inputs.ts';
import { Output } from './output.ts';
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
  readonly warn: (facts: object, message: string) => void;
}

/** Changelog of one input transformed together. */
const GROUP_BYTES = 512 * 1024;
/** How often the changelog says how far the inputs are, while no row goes out. */
const BEAT_MS = 500;
/** For expressions over a section at a time. */
const MEMORY_BYTES = 256 * 2 ** 20;

/**
 * Reads changelogs, sends their rows through the steps, and writes a changelog: exactly once, because every message it
 * writes says how far its inputs are in it. A new leader reads the last message and goes on from there; whoever led before
 * is refused (I2, I3).
 */
export class TransformActor implements Actor {
  readonly #options: TransformOptions;
  #output: Output | null = null;
  #engine: FlowEngine | null = null;
  #lagMs = 0;
  #appliedAt = 0;
  #failure: { readonly error: unknown } | null = null;
  #inputs: Inputs | null = null;
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
      applied: this.#engine?.rows ?? 0,
    };
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { config, changelogs, changelog } = this.#options;
    const database = await Database.open({ path: ':memory:', memoryBytes: MEMORY_BYTES, threads: 1, spillDir: '' });
    const writer = await changelogs.write(config.name, changelog);
    const stops: (() => Promise<void>)[] = [];
    const inputs = new Inputs({ changelogs, groupBytes: GROUP_BYTES, wants: (input, table) => wantsTable(config, input, table) });
    this.#inputs = inputs;
    const stop = () => inputs.stop();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const { plans, evaluator } = machineryOf(config, await connect(database));
      const output = this.#open(writer);
      await output.stored;
      for (const [input, place] of await this.#seated(output)) await inputs.follow(input, place);
      stops.push(...(await this.#serve(output)));
      ready();
      this.#engine = new FlowEngine({ transform: config, output, plans, flow: new Flow(evaluator) });
      await this.#follow({ output, writer, engine: this.#engine }, signal);
    } finally {
      signal.removeEventListener('abort', stop);
      for (const one of stops) await one();
      for (const waiter of this.#waiters.splice(0)) waiter.reject(new Fault('not_found', `transform ${config.name} stopped`));
      await inputs.close();
      await writer.close().catch(() => {});
      database.close();
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
  async #seated(output: Output): Promise<ReadonlyMap<string, InputPlace>> {
    const { changelogs } = this.#options;
    const seated = new Map<string, InputPlace>();
    for (const [input, place] of output.vector) seated.set(input, { ...place, seq: await changelogs.reached(input, place) });
    output.advance(seated);
    return seated;
  }

  async #follow(
    { output, writer, engine }: { output: Output; writer: ChangelogWriter; engine: FlowEngine },
    signal: AbortSignal,
  ): Promise<void> {
    while (!signal.aborted) {
      const group = await this.#next(output, signal);
      if (this.#failure) throw this.#failure.error;
      if (!group) return;
      await engine.apply(group);
      this.#applied(group);
      if (writer.pendingBytes > LIMITS.pendingBytes) await writer.belowPending(LIMITS.pendingBytes / 2);
      if (output.resting && !output.level && output.sinceSentMs >= BEAT_MS) output.beat();
      this.#answer();
    }
  }

  /** The next group; an input whose history is gone is read again from a snapshot of its source. */
  async #next(output: Output, signal: AbortSignal): Promise<InputGroup | null> {
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

  #serve(output: Output): Promise<(() => Promise<void>)[]> {
    const { config, inputs, bus } = this.#options;
    const settled = async (reached: ReadonlyMap<string, number>) => {
      await this.#until(() => output.level && [...reached].every(([input, seq]) => (output.vector.get(input)?.seq ?? 0) >= seq));
      return output.stored;
    };
    return serveCommands({ config, inputs, bus, settled });
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
