import { aborted, type Actor } from '@tributary/cluster';
import type { KpiConfig, KpiReader } from '@tributary/config';
import { type Bus, Fault } from '@tributary/core';
import { Sandbox, type SandboxLimits } from '@tributary/duckdb';
import type { Engine } from './engine.ts';
import { previewed, TRIAL_PROGRAM, validated } from './trial.ts';
import type { ValuesQuestion } from './values.ts';

export interface EngineActorOptions {
  readonly open: () => Promise<Engine>;
  readonly bus: Bus;
  readonly engine: string;
  /** Of its own, for what definitions are tried on. */
  readonly folder: string;
  readonly limits: SandboxLimits;
  /** KPIs of the cluster, whatever their engine, that are not for everyone. */
  readonly guarded: readonly KpiConfig[];
}

/** Answers what concerns no KPI that runs: does a definition fit, and how would it differ. What people write runs in a process of its own. */
export class EngineActor implements Actor {
  readonly #options: EngineActorOptions;

  constructor(options: EngineActorOptions) {
    this.#options = options;
  }

  facts(): Record<string, unknown> {
    return {};
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { open, bus, engine: name, folder, limits, guarded } = this.#options;
    const engine = await open();
    const ended = AbortSignal.any([signal, engine.store.invalid]);
    const sandbox = new Sandbox(folder, limits, TRIAL_PROGRAM);
    await sandbox.open();
    /** What was begun when the engine ends is not wrong, only too early or too late. */
    const unlessEnded = async <T>(trying: Promise<T>): Promise<T> => {
      try {
        return await trying;
      } catch (error) {
        if (!ended.aborted) throw error;
        throw new Fault('not_complete', `engine ${name} ended meanwhile`, {}, { cause: error });
      }
    };
    const subject = (what: string) => `tributary.kpi-engine.${name}.${what}`;
    const stops = [
      await bus.serve(subject('preview'), async function* (question) {
        const { config, ...rest } = question as { config: KpiConfig; ask: ValuesQuestion; reader: KpiReader | undefined };
        yield await unlessEnded(previewed({ engine, config, sandbox, guarded, signal: ended }, rest));
      }),
      await bus.serve(subject('validate'), async function* (question) {
        const { config } = question as { config: KpiConfig };
        yield await unlessEnded(validated({ engine, config, sandbox, guarded, signal: ended }));
      }),
    ];
    ready();
    await aborted(ended);
    for (const stop of stops) await stop();
    sandbox.close();
    if (!signal.aborted) throw engine.store.invalid.reason as Error;
  }
}
