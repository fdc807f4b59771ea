export type { Actor, ActorSpec, ActorState, ActorStatus, Log } from './actor.ts';
export type { RunningService, Runtime } from './runtime.ts';
export { Supervisor } from './supervisor.ts';
