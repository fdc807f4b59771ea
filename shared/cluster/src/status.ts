import type { ActorSpec, ActorStatus, Log } from './actor.ts';
import type { RunningService, Runtime } from './runtime.ts';
import { Supervisor } from './supervisor.ts';

const TELL_MS = 500;

/** What a worker tells of its actors on `tributary.status`. */
export interface StatusTold {
  readonly worker: string;
  readonly service: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly actors: readonly ActorStatus[];
}

/** Runs the actors of one service under a supervisor and tells how they are: every half second, and on every change. */
export function runService<C>(
  service: string,
  runtime: Runtime<C>,
  specs: readonly ActorSpec[],
): RunningService & { readonly supervisor: Supervisor } {
  const { bus, clock, worker } = runtime;
  let stopped = false;
  const tell = () => {
    if (stopped) return;
    const told: StatusTold = { worker, service, at: clock.now(), actors: supervisor.status() };
    bus.tell('tributary.status', told);
  };
  const supervisor = new Supervisor(clock, runtime.log satisfies Log, tell);
  for (const spec of specs) supervisor.start(spec);
  const timer = setInterval(tell, TELL_MS);
  return {
    supervisor,
    async stop() {
      await supervisor.stop();
      tell();
      stopped = true;
      clearInterval(timer);
    },
  };
}
