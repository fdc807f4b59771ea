export { ProjectionActor, type ProjectionActorOptions } from './actor.ts';
export { leaveOut } from './leave-out.ts';
export type { Accepted, DriverView, Group, Projection, Rewind } from './projection.ts';
