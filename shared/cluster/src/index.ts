export type { Actor, ActorSpec, ActorState, ActorStatus, Log } from './actor.ts';
export type { RunningService, Runtime } from './runtime.ts';
export { runService, type StatusTold } from './status.ts';
export { Supervisor } from './supervisor.ts';
export { aborted, together } from './together.ts';
