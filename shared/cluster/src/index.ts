export type { Actor, ActorSpec, ActorState, ActorStatus, Log } from './actor.ts';
export { Grace } from './grace.ts';
export { registeredActors } from './registration.ts';
export type { ConfiguredService, RunningService, Runtime } from './runtime.ts';
export { runService, type StatusTold } from './status.ts';
export { Supervisor } from './supervisor.ts';
export { aborted, together, unlessAborted } from './together.ts';
export type { Assignment } from './worker.ts';
