export type { Actor, ActorSpec, ActorState, ActorStatus, Log } from './actor.ts';
export { registeredActors } from './registration.ts';
export type { ConfiguredService, RunningService, Runtime } from './runtime.ts';
export { runService, type StatusTold } from './status.ts';
export { Supervisor } from './supervisor.ts';
export { aborted, together } from './together.ts';
export type { Assignment } from './worker.ts';
